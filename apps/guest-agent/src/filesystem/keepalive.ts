import { minute, second } from "@roost/kit";

/** Time between two keepalives in `ms` when the client names none: proxies on the way cut idle connections later. */
const keepaliveMsDefault = 90 * second;
/** A client that asks for more often would only heat the guest's CPU. */
const keepaliveMsMin = 1 * second;
const keepaliveMsMax = 60 * minute;

/** From the header `Keepalive-Ping-Interval`, in `s`; in `ms`. What is no number is as if absent. */
export function keepaliveMsOf(headers: Headers): number {
  const text = headers.get("keepalive-ping-interval");
  if (text === null || !/^\d{1,9}$/.test(text)) return keepaliveMsDefault;
  return Math.min(keepaliveMsMax, Math.max(keepaliveMsMin, Number(text) * second));
}
