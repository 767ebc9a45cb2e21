import { expect, test } from "vitest";

import { createProgressPrinter } from "./progress-printer.ts";

function printed(isTTY: boolean): { text: () => string; printer: ReturnType<typeof createProgressPrinter> } {
  let text = "";
  let ms = 0;
  const printer = createProgressPrinter({ isTTY, columns: 60, write: (chunk) => (text += chunk) }, () => (ms += 500));
  return { text: () => text, printer };
}

test("without a terminal each step is a plain line", () => {
  const { text, printer } = printed(false);
  printer.onProgress({ step: "kernel", message: "downloading" });
  printer.onProgress({ step: "base", message: "installing", fraction: 0.254 });
  printer.onProgress({ step: "kernel", message: "done", fraction: 1 });
  printer.finish();
  expect(text()).toBe("   0.5 s  kernel: downloading\n   1.0 s  base: installing (25 %)\n   1.5 s  kernel: done\n");
});

test("a terminal gets one line that changes, no longer than itself, and nothing of it is left", () => {
  const { text, printer } = printed(true);
  printer.onProgress({ step: "kernel", message: "x".repeat(100) });
  printer.onProgress({ step: "kernel", message: "done", fraction: 1 });
  printer.finish();
  const lines = text().split("\r\u001b[K");
  expect(lines[0]?.length).toBe(59);
  expect(lines.at(-1)).toMatch(/kernel: done\n$/);
});
