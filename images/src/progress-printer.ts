import type { OnProgress, Progress } from "./progress.ts";

export interface ProgressStream {
  readonly isTTY?: boolean;
  readonly columns?: number;
  write(text: string): unknown;
}

/** Prints progress: plain lines, and on a terminal the running steps in a last line that changes in place. */
export function createProgressPrinter(
  stream: ProgressStream,
  now: () => number = () => performance.now(),
): { onProgress: OnProgress; finish: () => void } {
  const start = now();
  const running = new Map<string, Progress>();
  let isLineOpen = false;

  const clearLine = () => {
    if (isLineOpen) stream.write("\r\u001b[K");
    isLineOpen = false;
  };
  const elapsed = () => `${((now() - start) / 1_000).toFixed(1).padStart(6)} s`;
  const redraw = () => {
    if (stream.isTTY !== true || running.size === 0) return;
    const text = `${elapsed()}  ${[...running.values()].map(describe).join("  ·  ")}`;
    stream.write(text.slice(0, Math.max(20, (stream.columns ?? 80) - 1)));
    isLineOpen = true;
  };

  return {
    onProgress(progress) {
      clearLine();
      if (progress.fraction === 1) {
        running.delete(progress.step);
        stream.write(`${elapsed()}  ${progress.step}: ${progress.message}\n`);
      } else {
        running.set(progress.step, progress);
        if (stream.isTTY !== true) stream.write(`${elapsed()}  ${describe(progress)}\n`);
      }
      redraw();
    },
    finish() {
      clearLine();
    },
  };
}

function describe({ step, message, fraction }: Progress): string {
  return `${step}: ${message}${fraction === undefined ? "" : ` (${Math.round(fraction * 100)} %)`}`;
}
