// The contract between lib/ and the native addon: everything the .node file exports, and nothing else.
// Arguments are checked by lib/ first (types, ranges, names in messages); the addon checks again whatever could
// corrupt memory. Native failures are Error objects with `code` from native/core/error_codes.def.

export type DtypeName = 'f32' | 'f16' | 'bf16' | 'i32' | 'u8' | 'i8'
export type FloatDtypeName = 'f32' | 'f16' | 'bf16'
export type NativeArray = Float32Array | Uint16Array | Int32Array | Uint8Array | Int8Array

/** Which of the stored elements a weight is: the first, and strides per dimension. Absent: all, row by row. */
export interface TensorView {
  first: number
  strides: number[]
}

/**
 * A weight: a slice of a mapped file, or a typed array (copied before the call returns), which ends with the last element
 * of its view.
 */
export type TensorSource =
  | { file: MappedFile; offset: number; dtype: FloatDtypeName; shape: number[]; view?: TensorView }
  | { data: Float32Array | Uint16Array; dtype: FloatDtypeName; shape: number[]; view?: TensorView }
  | { quantized: QuantizedMatrix; dtype: 'f32'; shape: number[] }
  | CodedSource

/**
 * A matrix as codes with one scale per block, decoded when it is packed: MXFP4 to bf16 (exact), FP8 to f32 in
 * 'exact' and bf16 in 'fast'. `view` and blocks count in the stored matrix [N, K]. Errors: INVALID_QUANTIZATION for
 * scales that are NaN, infinite or not above 0.
 */
export interface CodedSource {
  file: MappedFile
  offset: number
  /** 'mxfp4': two codes per byte, the low nibble first */
  dtype: 'f8_e4m3' | 'mxfp4'
  shape: number[]
  stored: number[]
  view?: TensorView
  scales: {
    file: MappedFile
    offset: number
    /** 'e8m0': bytes e for 2^(e - 127) */
    dtype: FloatDtypeName | 'e8m0'
    /** [ceil(N / block[0]), ceil(K / block[1])] */
    shape: number[]
    block: number[]
  }
}

export type WeightFormatName =
  'f32' | 'bf16' | 'w8' | 'w4' | 'w4c' | 'w3' | 'w2' | 'w1' | 'wn' | 't2' | 't5' | 'f8'

/**
 * A matrix and the format to keep it in; absent: bf16 for bf16, else f32. The other formats quantize as it is loaded, to
 * nearest. group: columns per scale (default: the format's); asym: with zero points; codebook of w4c: 0 MXFP4, 1 NVFP4,
 * 2 NF4.
 */
export type MatrixSource = TensorSource & {
  format?: WeightFormatName
  group?: number
  asym?: boolean
  codebook?: number
}

export class MappedFile {
  /** Maps a whole file read-only. Errors: FILE_NOT_FOUND, FILE_READ. */
  constructor(path: string)
  readonly size: number
  /** Copies [offset, offset + length). Errors: INVALID_ARGUMENT outside the file, FILE_CHANGED when it shrank. */
  read(offset: number, length: number): Uint8Array
  /** Unmaps once no running call uses it. Idempotent. */
  close(): void
}

/** Set by lib/ when an AbortSignal fires; a call given a cancelled token rejects with code ERR_SMOE_CANCELLED. */
export class CancelToken {
  constructor()
  cancel(): void
}

export type ActivationName = 'silu' | 'gelu_tanh' | 'gelu_erf' | 'relu' | 'relu2' | 'identity'
/**
 * Parameters of a gated activation: act(min(g, limit)) * (clamp(u, +-limit) + beta), 'silu' being
 * x * sigmoid(alpha * x). Defaults: 1, no limit, 0.
 */
export interface NativeGluParameters {
  alpha?: number
  limit?: number
  beta?: number
}

export type PrecisionName = 'exact' | 'fast'

/** RouterConfig of native/kernels/route/router.h, flattened from the wire form by lib/router. */
export interface NativeRouterConfig {
  experts: number
  score: 'identity' | 'softmax' | 'sigmoid'
  select: 'topK' | 'groupTopK'
  k: number
  groups?: number
  groupsKept?: number
  groupReduce?: 'max' | 'sum2'
  groupFill?: 'negInf' | 'zero'
  source?: 'score' | 'logit'
  post?: 'none' | 'softmax' | 'sigmoid'
  normP?: number
  normEps?: 'none' | 'add' | 'clampMin' | 'zeroSafe'
  eps?: number
  scale?: number
  weightOnInput?: boolean
  /** [E] selection bias (key = score + bias), f32 */
  modelBias?: Float32Array
}

export interface NativeRouting {
  ids: Int32Array // [T, K], -1 = unused
  weights: Float32Array // [T, K]
  count: Int32Array // [T]
  logits?: Float32Array // [T, E] when computed here
}

/** Routes logits [T, E] (f32). Synchronous: for small T. */
export function routeSync(config: NativeRouterConfig, logits: Float32Array, tokens: number): NativeRouting
export function route(
  config: NativeRouterConfig,
  logits: Float32Array,
  tokens: number,
  cancel?: CancelToken,
): Promise<NativeRouting>
/** logits = hidden W^T + b and then route. weight [E, H]. */
export class Router {
  constructor(config: NativeRouterConfig, weight: TensorSource, bias?: Float32Array)
  route(
    hidden: Float32Array | Uint16Array,
    dtype: FloatDtypeName,
    tokens: number,
    cancel?: CancelToken,
  ): Promise<NativeRouting>
  dispose(): void
}

export interface NativeExpert {
  gate?: MatrixSource // [I, H]; absent for a plain MLP
  up: MatrixSource // [I, H]; same format and group as gate
  down: MatrixSource // [H, I]
  gateBias?: TensorSource // [I]
  upBias?: TensorSource // [I]
  downBias?: TensorSource // [H]
}

/** What experts of integers are multiplied by in 'fast'; auto: bf16 on a CUDA device, int8 on the CPU. */
export type ActivationsName = 'auto' | 'bf16' | 'int8'

export interface NativeMoe {
  hidden: number
  activation: ActivationName
  activations?: ActivationsName
  glu?: NativeGluParameters
  router: NativeRouterConfig
  routerWeight: TensorSource // [E, H]
  routerBias?: TensorSource // [E] logit bias
  modelBias?: TensorSource // [E] selection bias (overrides router.modelBias)
  experts: NativeExpert[]
  shared?: NativeExpert
  sharedGate?: TensorSource // [1, H]
}

export type MomentumTypeName = 'none' | 'heavy_ball' | 'complex' | 'robust' | 'nesterov' | 'adam'
export interface NativeMomentumSpec {
  type: MomentumTypeName
  mu?: number | number[]
  gamma?: number | number[]
  sign?: number
  beta1?: number
  beta2?: number
  gamma1?: number
  eps?: number
  kappa?: number
  L?: number
  adamLayers?: number[]
}

/** Momentum state of one forward pass up the depth: [T, H] per state tensor. lib/ guards its order of use. */
export class MomentumState {
  constructor(spec: NativeMomentumSpec, tokens: number, hidden: number)
  /** Back to layer 0; the memory is not cleared, the first layer never reads it. */
  reset(): void
  /** MoE layers applied since reset(). */
  readonly depth: number
  readonly bytes: number
  /** Copy of a state tensor [T, H]: 'm' | 'm_im' | 'p' | 'v'; zeros before the first layer. */
  read(name: string): Float32Array
  dispose(): void
}

export interface MoeForwardOptions {
  state?: MomentumState
  /** residual stream x [T, H] f32; absent with `state` means hidden itself */
  residual?: Float32Array
  /** given assignments; ids in [-1, E) are checked natively */
  routing?: { ids: Int32Array; weights: Float32Array; slots: number }
  /** [E] bits per weight, 2..8, at which experts in wn are read */
  expertBits?: Uint8Array
  cancel?: CancelToken
}

export class MoeLayer {
  /**
   * Packs the weights on the pool. device: index of a CUDA device, to which they then go; -1 (default): the CPU; -2: the
   * first usable device, else the CPU. Errors of devices: DEVICE_UNAVAILABLE, DEVICE_LOST, OUT_OF_MEMORY.
   */
  static create(
    desc: NativeMoe,
    precision: PrecisionName,
    cancel?: CancelToken,
    device?: number,
  ): Promise<MoeLayer>
  readonly hidden: number
  readonly expertCount: number
  readonly slots: number
  /** -1: the CPU */
  readonly device: number
  readonly bytes: number
  readonly deviceBytes: number
  /**
   * Resolves with `out`. hidden and the options' arrays are copied before the call returns. A given `out` is written when
   * the promise settles, on the JS thread; without one the addon makes the array and fills it on its own thread, which
   * spares a copy of large results.
   */
  forward(
    hidden: Float32Array | Uint16Array,
    dtype: FloatDtypeName,
    tokens: number,
    out: Float32Array | Uint16Array | undefined,
    options?: MoeForwardOptions,
  ): Promise<Float32Array | Uint16Array>
  /** No copies: reads hidden and writes out (of the same dtype) in place. */
  forwardSync(
    hidden: Float32Array | Uint16Array,
    dtype: FloatDtypeName,
    tokens: number,
    out: Float32Array | Uint16Array,
    options?: MoeForwardOptions,
  ): void
  /** Assignments per expert since creation or resetStats(). */
  counts(): Float64Array
  resetStats(): void
  dispose(): void
}

export interface NativeNorm {
  kind: 'rms' | 'layer'
  eps: number
  weight: TensorSource
  bias?: TensorSource
}

export interface NativeAttention {
  heads: number
  kvHeads: number
  headDim: number
  qkNorm: 'none' | 'per_head' | 'full'
  qkNormEps: number
  scale: number
  clipQkv?: number
  window?: number
  invFreq: Float32Array
  ropeScale?: number
  q: TensorSource
  k: TensorSource
  v: TensorSource
  o: TensorSource
  qBias?: TensorSource
  kBias?: TensorSource
  vBias?: TensorSource
  oBias?: TensorSource
  qNorm?: TensorSource
  kNorm?: TensorSource
  /** [heads]: a score per head that takes its share of the softmax and has no value */
  sinks?: TensorSource
}

/** Multi-head latent attention (DeepSeek): the cache keeps one latent and one rotated key part per token. */
export interface NativeLatentAttention {
  heads: number
  /** 0: qB maps the hidden state, and there are no qA and qNorm */
  qRank: number
  kvRank: number
  nopeDim: number
  ropeDim: number
  valueDim: number
  normEps: number
  /** rotated pairs lie side by side (2i, 2i + 1), not half a part from each other */
  interleavedRope: boolean
  scale: number
  invFreq: Float32Array // [ropeDim / 2]
  ropeScale?: number
  qA?: TensorSource // [qRank, H]
  qABias?: TensorSource // [qRank]
  qNorm?: TensorSource // [qRank]
  qB: TensorSource // [heads * (nopeDim + ropeDim), qRank or H]
  kvA: TensorSource // [kvRank + ropeDim, H]
  kvABias?: TensorSource // [kvRank + ropeDim]
  kvNorm: TensorSource // [kvRank]
  kvB: TensorSource // [heads * (nopeDim + valueDim), kvRank]
  o: TensorSource // [H, heads * valueDim]
  oBias?: TensorSource // [H]
}

export interface NativeDecoderLayer {
  attentionNorm: NativeNorm
  ffnNorm: NativeNorm
  /** either this or latentAttention */
  attention?: NativeAttention
  latentAttention?: NativeLatentAttention
  moe?: NativeMoe
  dense?: NativeExpert & { activation: ActivationName; glu?: NativeGluParameters }
}

export interface NativeDecoderHead {
  vocab: number
  hidden: number
  embedding: TensorSource // [V, H]
  output?: TensorSource // [V, H]; absent = tied
  finalNorm: NativeNorm
  momentum?: NativeMomentumSpec
}

export interface SamplingOptions {
  temperature: number // 0 = greedy
  topP: number // (0, 1]
  topK: number // 0 = all
  seed: number // 32-bit; the draw depends on (seed, position) only
}

export interface NativeLayerTrace {
  layer: number
  slots: number
  experts: number
  input: Float32Array
  residualIn: Float32Array
  routerLogits: Float32Array
  ids: Int32Array
  weights: Float32Array
  count: Int32Array
  output: Float32Array
  residualOut: Float32Array
  momentumOut?: Float32Array
}

export class KvCache {
  constructor(decoder: Decoder, capacity: number)
  readonly length: number
  readonly capacity: number
  readonly bytes: number
  readonly deviceBytes: number
  truncate(length: number): void
  dispose(): void
}

/** Bits per weight, 2..8, at which experts in wn are read: of all, or of each, one array per MoE layer. */
export type NativeExpertBits = number | Uint8Array[]

export class Decoder {
  /**
   * Packs embedding, output and final norm. Layers follow one by one, so that progress and abort are possible, and so
   * that with a CUDA device (as for MoeLayer) no more than one of them is in host memory.
   */
  static create(
    head: NativeDecoderHead,
    precision: PrecisionName,
    cancel?: CancelToken,
    device?: number,
  ): Promise<Decoder>
  addLayer(layer: NativeDecoderLayer, cancel?: CancelToken): Promise<void>
  /** Checks the whole; forward() refuses before. */
  finish(): void
  /** -1: the CPU */
  readonly device: number
  readonly bytes: number
  readonly deviceBytes: number
  /** Kept on the device between calls, as of the last one that ended. */
  readonly deviceScratch: number
  /** Logits [T, V] ('all') or [1, V] ('last'). Without a cache a temporary one is used. */
  forward(
    ids: Int32Array,
    cache: KvCache | undefined,
    logits: 'all' | 'last',
    cancel?: CancelToken,
    expertBits?: NativeExpertBits,
  ): Promise<Float32Array>
  /** Appends ids and returns the next token sampled from the last logits. */
  step(
    ids: Int32Array,
    cache: KvCache,
    sampling: SamplingOptions,
    cancel?: CancelToken,
    expertBits?: NativeExpertBits,
  ): Promise<number>
  /** nll[t] = -log p(targets[t] | ids[0..t]) from a fresh context. */
  nll(
    ids: Int32Array,
    targets: Int32Array,
    cancel?: CancelToken,
    expertBits?: NativeExpertBits,
  ): Promise<Float64Array>
  trace(ids: Int32Array, cancel?: CancelToken): Promise<{ logits: Float32Array; layers: NativeLayerTrace[] }>
  /** Assignments per expert: one Float64Array per MoE layer. */
  counts(): Float64Array[]
  resetStats(): void
  dispose(): void
}

export type QuantFormatName = 'w8' | 'w4' | 'w4c' | 'w3' | 'w2' | 'w1' | 'wn' | 't2' | 't5' | 'f8'

export interface NativeQuantizeOptions {
  format: QuantFormatName
  method: 'rtn' | 'mse' | 'hqq' | 'gptq'
  group?: number // 0 = one scale per row
  symmetric?: boolean
  planes?: number // wn: residual planes after the 2-bit base
  codebook?: number // w4c, by rtn: 0 MXFP4, 1 NVFP4, 2 NF4
  /** what the columns, and the rows, of the source are multiplied by first; moments are those before it */
  inputScale?: Float32Array
  rowScale?: Float32Array
  damping?: number
  actOrder?: boolean
  sweeps?: number // descent rounds after GPTQ
}

/** The moments that a matrix is quantized under: of the expert's inputs (gate, up) or of its hidden units (down). */
export interface NativeHessian {
  calibration: Calibration
  layer: number
  expert: number
  part: 'input' | 'units'
  /** rows of the layer's mean that are added to the expert's own; inputs only */
  blend?: number
}

/** Canonical form: codes as LSB-first bit streams per row (t5: base 3), each row beginning at a byte. */
export interface NativeQuantizedParts {
  format: QuantFormatName
  rows: number
  cols: number
  group: number
  mul: number
  codebook?: number
  codes: Uint8Array
  scales: Float32Array // [rows, ceil(cols / group)]
  zeros?: Float32Array
  planes?: { codes: Uint8Array; scales: Float32Array }[]
}

export interface NativeImportOptions {
  kind: 'gptq' | 'awq' | 'packed' | 'int8' | 'float8' | 'mxfp4' | 'nvfp4' | 'bitnet'
  rows: number
  cols: number
  bits?: number
  group?: number // 0 = the whole row
  storedZeroMinusOne?: boolean
  divide?: boolean
}

/** A tensor as its file holds it; dtype as safetensors spells it. */
export interface NativeRawTensor {
  data: Uint8Array
  dtype: string
  shape: number[]
}

/** A quantized matrix, constant once made. Errors of all three makers: INVALID_QUANTIZATION and those of shapes. */
export class QuantizedMatrix {
  static quantize(
    source: TensorSource,
    options: NativeQuantizeOptions,
    hessian?: NativeHessian,
    cancel?: CancelToken,
  ): Promise<QuantizedMatrix>
  /** Copies before it returns; codes are unpacked and checked on the op thread. */
  static from(parts: NativeQuantizedParts, cancel?: CancelToken): Promise<QuantizedMatrix>
  /** tensors by the names of their format: qweight, qzeros, scales, g_idx, weight_packed, weight_scale, ... */
  static import(
    options: NativeImportOptions,
    tensors: Record<string, NativeRawTensor>,
    cancel?: CancelToken,
  ): Promise<QuantizedMatrix>
  readonly format: QuantFormatName
  readonly rows: number
  readonly cols: number
  readonly group: number
  /** of quantize(): sums over all weights; loss is GPTQ's */
  readonly report: {
    squaredError: number
    squaredWeight: number
    loss: number
    damping: number
    deadColumns: number
  }
  /** Codes are packed on the op thread; the matrix may be disposed of meanwhile. */
  parts(cancel?: CancelToken): Promise<NativeQuantizedParts>
  dequantize(): Float32Array
  dispose(): void
}

/** Sums over calibration texts. A cancelled add() may leave them half-way; they are refused afterwards. */
export class Calibration {
  /** decoder layers [firstLayer, lastLayer); samples: rows kept per expert */
  constructor(decoder: Decoder, config?: { firstLayer?: number; lastLayer?: number; samples?: number })
  add(ids: Int32Array, cancel?: CancelToken): Promise<void>
  /** per MoE layer: tokens seen, assignments and sum of routing weights per expert */
  stats(): { layer: number; tokens: number; counts: Float64Array; weights: Float64Array }[]
  /** mean over sampled rows of |w (E - E^)|^2 and of |w E|^2 when these matrices replace the expert's; gate and up together */
  expertError(
    layer: number,
    expert: number,
    replacement: { gate?: QuantizedMatrix; up?: QuantizedMatrix; down?: QuantizedMatrix },
    cancel?: CancelToken,
    /** [H]: the replacements were made with it and take inputs divided by it */
    inputScale?: Float32Array,
  ): Promise<{ error: number; scale: number }>
  /**
   * Powers of two per input channel for matrices that share their inputs, to multiply columns by: EAQuant's merged
   * ranges, or AWQ's search, which asks consumers with an `expert` only (part 'units': down projections).
   */
  smoothing(
    layer: number,
    options: {
      kind: 'eaquant' | 'awq'
      part: 'input' | 'units'
      format?: QuantFormatName
      symmetric?: boolean
      group?: number
      search?: boolean // scales are searched for later, as 'mse' does
    },
    consumers: { expert?: number; weights: TensorSource[] }[],
    cancel?: CancelToken,
  ): Promise<{ scale: Float32Array; power: number; loss: number; lossPlain: number }>
  /** The router in 8 bits, clipped where its choice of k experts stays closest to the exact one on sampled inputs. */
  alignRouter(
    layer: number,
    weight: TensorSource,
    options: { k: number; bias?: TensorSource; inputScale?: Float32Array },
    cancel?: CancelToken,
  ): Promise<{ ratio: number; kl: number; klPlain: number; matrix: QuantizedMatrix }>
  readonly bytes: number
  dispose(): void
}

/** Element conversions for tensors. */
export function toF32(data: Uint16Array, dtype: 'f16' | 'bf16'): Float32Array
export function fromF32(data: Float32Array, dtype: 'f16' | 'bf16'): Uint16Array

/** Measured ceilings of this machine, on the pool: GB/s, GFLOP/s and (byte dot products) GOP/s with `threads` threads. */
export interface Ceilings {
  threads: number
  dramReadGBs: number
  l3ReadGBs: number
  fmaGflops: number
  bf16Gflops: number
  int8Gops: number
  /** codes of at most four bits; int8Gops where they are no faster */
  int4Gops: number
}
export function measureCeilings(threads: number, cancel?: CancelToken): Promise<Ceilings>

export interface RuntimeInfo {
  isa: string // active table
  usableIsas: string[]
  threads: number
  maxThreads: number
  build: { compiler: string; type: string; napi: number }
  /** bytes of pooled workspaces and number of queued or running calls */
  workspaceBytes: number
  pendingCalls: number
}
export function runtimeInfo(): RuntimeInfo
/** Threads used from the next call on, 1..maxThreads. */
export function setThreads(threads: number): void
/** Forces an instruction set (tests and benches). Errors: ISA_UNAVAILABLE. */
export function setIsa(isa: string): void

/** What keeps a CUDA backend or one of its devices from being used. */
export type CudaProblem = 'library' | 'driver' | 'device' | 'capability' | 'lost' | 'failed'

export interface CudaDevice {
  index: number
  /** '' when it could not be asked */
  name: string
  computeCapability: string
  multiprocessors: number
  memory: number
  memoryFree: number
  /** absent: usable */
  problem?: CudaProblem
  why?: string
}

export interface CudaInfo {
  /** of the library that was looked for; '': none */
  path: string
  /** absent when the library did not load */
  kind?: 'cuda' | 'emulation'
  problem?: CudaProblem
  why?: string
  /** 1000 * major + 10 * minor of the CUDA version that the driver and the library are made for; 0: not known */
  driver: number
  runtime: number
  /** devices there are */
  count: number
  devices: CudaDevice[]
}

/** The library of the CUDA backend, loaded at first use; to be set before that, ignored later. */
export function setCudaLibrary(path: string): void
/** Looks at all devices, or at one: a look makes a context on it, which costs memory and time. */
export function cudaInfo(device?: number): Promise<CudaInfo>

/** The codes of native/core/error_codes.def in order. */
export const errorCodes: string[]
