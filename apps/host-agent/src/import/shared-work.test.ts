import { Deferred } from "@roost/kit";
import { expect, test } from "vitest";

import { SharedWork } from "./shared-work.ts";

const caller = (signal: AbortSignal = new AbortController().signal, said: string[] = []) => ({
  signal,
  onReport: (report: string) => said.push(report),
});

test("one work serves all who want it, and each hears of it", async () => {
  const shared = new SharedWork<number, string>();
  const end = new Deferred<number>();
  let tell: (report: string) => void = () => undefined;
  let count = 0;
  const work = async (_signal: AbortSignal, report: (report: string) => void) => {
    count += 1;
    tell = report;
    return end.promise;
  };
  const [heardByOne, heardByTwo]: [string[], string[]] = [[], []];
  const one = shared.join("x", caller(undefined, heardByOne), work);
  const two = shared.join("x", caller(undefined, heardByTwo), work);
  tell("half");
  end.resolve(7);
  expect(await one).toEqual({ result: 7, isFirst: true });
  expect(await two).toEqual({ result: 7, isFirst: false });
  expect([heardByOne, heardByTwo, count]).toEqual([["half"], ["half"], 1]);
});

test("it goes on while somebody waits, ends with the last, and begins anew for the next", async () => {
  const shared = new SharedWork<number, string>();
  const signals: AbortSignal[] = [];
  const work = (signal: AbortSignal) => {
    signals.push(signal);
    return new Promise<number>((_resolve, reject) => signal.addEventListener("abort", () => reject(new Error("ended"))));
  };
  const [first, second] = [new AbortController(), new AbortController()];
  const one = shared.join("x", caller(first.signal), work);
  const two = shared.join("x", caller(second.signal), work);
  first.abort(new Error("gone"));
  await expect(one).rejects.toThrow("gone");
  expect(signals[0]?.aborted).toBe(false);
  second.abort(new Error("gone too"));
  await expect(two).rejects.toThrow("gone too");
  expect(signals[0]?.aborted).toBe(true);
  const three = shared.join("x", caller(), work);
  expect(signals).toHaveLength(2);
  three.catch(() => undefined); // looked at below
  await shared.close();
  await expect(three).rejects.toThrow("ended");
});
