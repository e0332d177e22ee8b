// Sums of calls, and what is derived from them.

import { nanos, share } from "./format.js";

const ADDED = ["calls", "answered", "failed", "busy", "duration_seconds"];

/** Sums of several objects with calls; `spend` is exact, in billionths of a dollar. */
export function sum(parts) {
  const total = { spend: 0n };
  for (const name of ADDED) total[name] = 0;
  for (const part of parts) {
    for (const name of ADDED) total[name] += part[name] ?? 0;
    total.spend += spend(part);
  }
  return total;
}

export const spend = (sums) => sums.spend ?? nanos(sums.charge_usd ?? "0");
/** For lengths in charts only. */
export const spend_about = (sums) => Number(spend(sums)) / 1e9;
export const asr = ({ answered, calls }) => share(answered, calls);
export const acd = ({ duration_seconds, answered }) => share(duration_seconds, answered);
export const failed = (sums) => share(sums.failed, sums.calls);
export const busy = (sums) => share(sums.busy, sums.calls);
