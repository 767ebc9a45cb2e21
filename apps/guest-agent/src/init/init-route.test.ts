import { expect, test } from "vitest";

import { rightClock } from "./init-route.ts";

const timestamp = "2026-11-23T06:20:00.000Z";
const at = Date.parse(timestamp);

test("a clock that is right is left alone", () => {
  expect([rightClock(timestamp, 0, at), rightClock(timestamp, 5, at - 10), rightClock(timestamp, 5, at + 24)]).toEqual([
    undefined,
    undefined,
    undefined,
  ]);
});

test("a clock that is wrong, either way, is set to the timestamp and what passed since it arrived", () => {
  expect([rightClock(timestamp, 7.5, at - 3_600_000), rightClock(timestamp, 7.5, at + 30)]).toEqual([at + 7.5, at + 7.5]);
});
