import { PassThrough } from "node:stream";

import { expect, test } from "vitest";

import type { CommandContext } from "../context.ts";
import { canAnimate, type OutputStream } from "../io.ts";
import { StatusLine } from "./status-line.ts";

function terminal(columns?: number) {
  const drawing = { clearLine: () => true, cursorTo: () => true, moveCursor: () => true };
  const stream: PassThrough & OutputStream = Object.assign(
    new PassThrough(),
    { isTTY: true, ...drawing },
    columns === undefined ? {} : { columns },
  );
  const context = { isJson: false, io: { stderr: stream, environment: {} } } as unknown as CommandContext;
  return { stream, context };
}

test.each([0, undefined])("on a terminal of %s columns there are lines, and nothing is drawn over", async (columns) => {
  const { stream, context } = terminal(columns);
  {
    using line = await StatusLine.open(context, "working");
    line.update("still working");
    line.print("a line");
  }
  stream.end();
  expect(String(await stream.read())).toBe("a line\n");
});

test("a terminal of some width shows what goes on; a dumb one, or none, does not", () => {
  const { stream } = terminal(80);
  expect(canAnimate(stream, {})).toBe(true);
  expect(canAnimate(stream, { TERM: "dumb" })).toBe(false);
  expect(canAnimate(new PassThrough(), {})).toBe(false);
});
