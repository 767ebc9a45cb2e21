import { expect, test } from "vitest";

import { parseSelector } from "./process-selector.ts";

test.each([
  ["1", { pid: 1 }],
  ["4194304", { pid: 4_194_304 }],
  ["4194305", { tag: "4194305" }],
  ["0", { tag: "0" }],
  ["99999999999", { tag: "99999999999" }],
  ["-1", { tag: "-1" }],
  ["1e3", { tag: "1e3" }],
  ["proc-1f00", { tag: "proc-1f00" }],
])("%s", (text, selector) => {
  expect(parseSelector(text)).toEqual(selector);
});
