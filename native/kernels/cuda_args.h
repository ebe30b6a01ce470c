// The arguments of every launch in cuda_launches.def.
#pragma once

#include "kernels/attention/attention_args.h"
#include "kernels/experts/int8_args.h"
#include "kernels/logits/logits_args.h"
#include "kernels/norm/norm_args.h"
#include "kernels/route/route_args.h"
