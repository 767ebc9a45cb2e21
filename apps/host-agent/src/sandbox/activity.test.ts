import { hour, minute } from "@roost/kit";
import { afterEach, beforeEach, expect, test, vi } from "vitest";

import { Activity } from "./activity.ts";

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

function anActivity(timeoutSec: number, options: { readonly idleMs?: number; readonly graceMs?: number } = {}) {
  const onInactive = vi.fn<() => void>();
  const activity = new Activity({
    timeoutSec,
    timeLastActiveMs: Date.now() - (options.idleMs ?? 0),
    onInactive,
    ...(options.graceMs === undefined ? {} : { graceMs: options.graceMs }),
  });
  return { activity, onInactive };
}

test("fires to the millisecond, once", () => {
  const { onInactive } = anActivity(90);
  vi.advanceTimersByTime(90_000 - 1);
  expect(onInactive).not.toHaveBeenCalled();
  vi.advanceTimersByTime(1);
  expect(onInactive).toHaveBeenCalledTimes(1);
  vi.advanceTimersByTime(hour);
  expect(onInactive).toHaveBeenCalledTimes(1);
});

test("each touch starts it anew, and none of them costs a timer", () => {
  const { activity, onInactive } = anActivity(60);
  for (let count = 0; count < 100; count += 1) {
    vi.advanceTimersByTime(30_000);
    activity.touch();
    expect(vi.getTimerCount()).toBe(1);
  }
  expect(onInactive).not.toHaveBeenCalled();
  vi.advanceTimersByTime(minute);
  expect(onInactive).toHaveBeenCalledTimes(1);
});

test("rests while a tunnel is open, and counts from the last one's end", () => {
  const { activity, onInactive } = anActivity(60);
  activity.tunnelOpened();
  activity.tunnelOpened();
  vi.advanceTimersByTime(hour);
  activity.tunnelClosed();
  vi.advanceTimersByTime(hour);
  expect(onInactive).not.toHaveBeenCalled();
  expect(activity.timeLastActiveMs).toBe(Date.now());
  activity.tunnelClosed();
  vi.advanceTimersByTime(minute - 1);
  expect(onInactive).not.toHaveBeenCalled();
  vi.advanceTimersByTime(1);
  expect(onInactive).toHaveBeenCalledTimes(1);
});

test("0 is never; another length counts from when it was asked for", () => {
  const { activity, onInactive } = anActivity(0);
  vi.advanceTimersByTime(1_000 * hour);
  expect(vi.getTimerCount()).toBe(0);
  activity.setTimeoutSec(600);
  vi.advanceTimersByTime(300_000);
  activity.setTimeoutSec(10);
  vi.advanceTimersByTime(9_999);
  expect(onInactive).not.toHaveBeenCalled();
  vi.advanceTimersByTime(1);
  expect(onInactive).toHaveBeenCalledTimes(1);
});

test("lengths beyond what a timer can hold are right", () => {
  const { onInactive } = anActivity(30 * 24 * 3_600);
  vi.advanceTimersByTime(30 * 24 * hour - 1);
  expect(onInactive).not.toHaveBeenCalled();
  vi.advanceTimersByTime(1);
  expect(onInactive).toHaveBeenCalledTimes(1);
});

test("continues after an adoption: what is left, but no less than the grace", () => {
  const late = anActivity(60, { idleMs: hour, graceMs: 5_000 });
  const early = anActivity(60, { idleMs: 20_000, graceMs: 5_000 });
  vi.advanceTimersByTime(4_999);
  expect(late.onInactive).not.toHaveBeenCalled();
  vi.advanceTimersByTime(1);
  expect(late.onInactive).toHaveBeenCalledTimes(1);
  vi.advanceTimersByTime(34_999);
  expect(early.onInactive).not.toHaveBeenCalled();
  vi.advanceTimersByTime(1);
  expect(early.onInactive).toHaveBeenCalledTimes(1);
});

test("never fires after close", () => {
  const { activity, onInactive } = anActivity(1);
  activity.tunnelOpened();
  activity.close();
  activity.tunnelClosed();
  vi.advanceTimersByTime(hour);
  expect(onInactive).not.toHaveBeenCalled();
});
