/** How often each expert was chosen. */
export interface ExpertStats {
  /** assignments per expert since creation or resetStats() */
  counts: Float64Array
  /** sum of counts: tokens times experts per token */
  total: number
  /** counts / total; zeros while total is 0 */
  share: Float64Array
  /** of share, in nats: ln(E) when the load is even, 0 when one expert takes everything */
  entropy: number
}

export function expertStats(counts: Float64Array): ExpertStats {
  let total = 0
  for (const count of counts) total += count
  const share = counts.map((count) => (total === 0 ? 0 : count / total))
  let entropy = 0
  for (const p of share) if (p > 0) entropy -= p * Math.log(p)
  return { counts, total, share, entropy }
}
