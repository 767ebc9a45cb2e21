import { expect, test } from "vitest";

import { Cleanup } from "./cleanup.ts";

test("releases in reverse, runs every step, and tells of all failures", async () => {
  const seen: string[] = [];
  const work = async () => {
    await using cleanup = new Cleanup();
    cleanup.defer("release a", () => seen.push("a"));
    cleanup.defer("release b", () => {
      throw new Error("b is stuck");
    });
    cleanup.defer("release c", () => {
      throw new Error("c is stuck");
    });
    cleanup.defer("release d", () => seen.push("d"));
  };
  await expect(work()).rejects.toThrow("could not release c; could not release b");
  expect(seen).toEqual(["d", "a"]);
});

test("what was handed over is not released", async () => {
  const seen: string[] = [];
  {
    await using cleanup = new Cleanup();
    cleanup.defer("release", () => seen.push("released"));
    expect(cleanup.handOver("value")).toBe("value");
  }
  expect(seen).toEqual([]);
});
