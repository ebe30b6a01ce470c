// Every kernel body, and the table of them; included last by each instruction set's file, which first defines
//   SMOE_ISA_TABLE, SMOE_ISA_NAME      the table's variable and its name
//   kMaxRows, kPairRows                rows per call; rows up to which two tiles' accumulators fit in registers at once
//   kInt8Rows, kInt8PairRows           the same for int8 rows, where rows beyond are a second pass over the tile
//   kPrefetchBytes                     how far ahead of the load a weight stream is prefetched
#pragma once

#include "kernels/experts/activation-inl.h"
#include "kernels/experts/pack-inl.h"
#include "kernels/experts/panel-inl.h"
#include "kernels/experts/tile-inl.h"
#include "kernels/isa/math-inl.h"
#include "kernels/isa/probe-inl.h"

#include "kernels/attention/attention-inl.h"
#include "kernels/attention/latent-inl.h"
#include "kernels/combine/combine-inl.h"
#include "kernels/norm/norm-inl.h"
#include "kernels/route/score-inl.h"

namespace smoe {

extern const KernelTable SMOE_ISA_TABLE;
const KernelTable SMOE_ISA_TABLE = {
    SMOE_ISA_NAME,
    kMaxRows,
    {
        {k_tile_f32, nullptr, nullptr},
        {k_tile_bf16_exact, k_tile_bf16_fast, nullptr},
        {k_tile_exact<IntegerValues<CodesW8>>, nullptr, k_tile_int8<CodesW8>},
        {k_tile_exact<IntegerValues<CodesW4>>, nullptr, k_tile_int8<CodesW4>},
        {k_tile_exact<CodebookValues>, k_tile_values_bf16<ValuesW4C>, nullptr},
        {k_tile_exact<IntegerValues<CodesW3>>, nullptr, k_tile_int8<CodesW3>},
        {k_tile_exact<IntegerValues<CodesW2>>, nullptr, k_tile_int8<CodesW2>},
        {k_tile_exact<IntegerValues<CodesW1>>, nullptr, k_tile_int8<CodesW1>},
        {k_tile_wn_exact, nullptr, k_tile_wn_int8},
        {k_tile_exact<IntegerValues<CodesW2>>, nullptr, k_tile_int8<CodesW2>},
        {k_tile_exact<IntegerValues<CodesT5>>, nullptr, k_tile_int8<CodesT5>},
        {k_tile_exact<F8Values>, k_tile_values_bf16<ValuesF8>, nullptr},
    },
    k_pack_rows_f32,
    k_pack_rows_bf16,
    k_pack_rows_int8,
    k_glu,
    k_mlp,
    k_combine,
    k_axpy,
    k_rms_norm,
    k_layer_norm,
    k_add,
    k_rotate,
    k_round_bf16,
    k_attend_f32,
    k_attend_bf16,
    k_attend_latent_f32,
    k_attend_latent_bf16,
    k_softmax,
    k_sigmoid,
    k_log_sum_exp,
    k_probe_read,
    k_probe_fma,
    k_probe_bf16,
    k_probe_int8,
    k_probe_int4,
};

}  // namespace smoe
