export { SmoeError, errorCodes, type CodedError, type ErrorCode } from './errors'
export { devices, type Device, type DeviceInfo, type DeviceName } from './device'
export { runtimeInfo, setThreads, type RuntimeInfo } from './runtime'
export { Tensor } from './tensor/tensor'
export type { Dtype, DtypeArrays, FloatDtype, TensorData } from './tensor/dtype'
export { Router, type RouteOptions, type RouterWeights, type Routing } from './router/router'
export type {
  GroupTopKSelect,
  RouterSpec,
  ScoreActivation,
  TopKSelect,
  Weigh,
  WeighNorm,
} from './router/spec'
export { MomentumState } from './momentum/state'
export type { MomentumSpec, MomentumType } from './momentum/spec'
export { MoeLayer } from './layer/moe_layer'
export type {
  ForwardOptions,
  ExpertBits,
  ForwardSyncOptions,
  LayerExpertBits,
  MoeLayerCreateOptions,
  MoeLayerLoadOptions,
  MoeLayerOptions,
} from './layer/options'
export type {
  Activation,
  Activations,
  Codebook,
  ExpertWeights,
  GluParameters,
  MoeLayerDescription,
  Precision,
  WeightFormat,
} from './layer/description'
export type { ExpertStats } from './layer/stats'
export { MoeModel } from './model/moe_model'
export type { GeneratedToken, MoeModelLoadOptions, PerplexityOptions } from './model/options'
export type { GenerateOptions, TokenIds } from './model/arguments'
export type { LoadProgress } from './model/load'
export type { PerplexityProgress, PerplexityResult } from './model/perplexity'
export type { LayerTrace, ModelTrace } from './model/trace'
export { inspect, type CheckpointSummary, type LayerSummary } from './checkpoint/inspect'
export { quantizeCheckpoint, type QuantizeReport, type QuantizedLayerReport } from './prepare/quantize'
export type {
  AllocationKind,
  QuantizeFormat,
  QuantizeMethod,
  QuantizeOptions,
  QuantizeProgress,
  Rounding,
  SharedFormat,
  Smoothing,
  StarvedPolicy,
} from './prepare/quantize_options'
export type { SmoothReport } from './prepare/smooth'
export type { ExpertPlan, LayerPlan, QuantizePlan } from './prepare/plan_quantize'
export { allocate, type Allocation, type AllocationProblem } from './prepare/allocate'
export { hebfOrder, nestedDemand, type PlaneLoad } from './prepare/hebf'
export type { LoadFormat } from './model/on_the_fly'
export { supportedModelTypes } from './checkpoint/registry'
