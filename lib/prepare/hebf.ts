/** One residual plane of one expert. */
export interface PlaneLoad {
  expert: number
  /** 0 is the base */
  plane: number
}

/**
 * HEBF (D2MoE): the order in which nested planes are read. `demand[expert][plane]` counts the requests that want this
 * plane or a higher one; since planes are nested it must not rise with the plane. Per expert the planes come in
 * ascending order, and of all heads the one with the highest demand goes next; ties go to the lower expert. Planes
 * that nobody wants are not read.
 */
export function hebfOrder(demand: readonly (readonly number[])[]): PlaneLoad[] {
  const next = demand.map(() => 0)
  const order: PlaneLoad[] = []
  for (;;) {
    let best = -1
    for (const [expert, planes] of demand.entries()) {
      const wanted = planes[next[expert]!] ?? 0
      if (wanted > 0 && (best < 0 || wanted > demand[best]![next[best]!]!)) best = expert
    }
    if (best < 0) return order
    order.push({ expert: best, plane: next[best]!++ })
  }
}

/** The demand of nested planes from the bits each request wants: base `baseBits`, one more per plane. */
export function nestedDemand(
  experts: number,
  baseBits: number,
  requests: readonly { expert: number; bits: number }[],
): number[][] {
  const demand = Array.from({ length: experts }, () => [] as number[])
  for (const { expert, bits } of requests) {
    const planes = demand[expert]!
    for (let plane = 0; plane <= bits - baseBits; plane++) planes[plane] = (planes[plane] ?? 0) + 1
  }
  return demand
}
