import { hour, second, sleep } from "@roost/kit";
import { z } from "zod";

import { QmpError, type QmpClient } from "./qmp.ts";

/** Longest time a copy of layers may take in `ms`: tens of GiB on a slow disk. */
const streamTimeoutMs = 2 * hour;
/** Time between two looks at a job in `ms`. */
const jobPollMs = 20;
/** Time a cancelled job has to be gone in `ms`: it ends after the request it is at. */
const cancelTimeoutMs = 60 * second;

const jobsSchema = z
  .array(z.object({ id: z.string().max(256), status: z.string().max(64), error: z.string().max(1_024).optional() }))
  .max(16);

export interface StreamOptions {
  /** Node that takes what is copied: the top of the chain */
  readonly top: string;
  /** Node below everything that is copied: it stays */
  readonly base: string;
  readonly signal?: AbortSignal;
}

/**
 * Copies what the nodes between `base` and `top` hold into `top`, and takes them out of the chain. What none of them holds stays unheld, so that
 * `base` goes on showing through; what one of them holds as zeros becomes zeros of `top`.
 *
 * When it rejects the chain is as it was; blocks already copied stay, and are the same as those below. Other users of the
 * chain may go on meanwhile.
 */
export async function streamIntoTop(qmp: QmpClient, options: StreamOptions): Promise<void> {
  options.signal?.throwIfAborted();
  const id = `stream-${options.top}`;
  await qmp.execute("block-stream", {
    "job-id": id,
    device: options.top,
    "base-node": options.base,
    // Else it writes what is below into the header of `top`: layers name nothing.
    "backing-file": "",
    "auto-dismiss": false,
  });
  try {
    const error = await jobEnd(qmp, id, {
      timeoutMs: streamTimeoutMs,
      ...(options.signal === undefined ? {} : { signal: options.signal }),
    });
    if (error !== undefined) throw new Error(`copying the layers of a disk failed: ${error}`);
  } catch (error) {
    await cancel(qmp, id);
    throw error;
  } finally {
    await qmp.execute("job-dismiss", { id }).catch(() => undefined); // gone with its VMM, or never concluded: nothing to dismiss
  }
}

/**
 * Ends the jobs of a VMM that nobody waits for any more: those of a host agent that is gone. A copy that was not complete is given up; one that was
 * has changed the chain.
 */
export async function endJobs(qmp: QmpClient): Promise<void> {
  for (const { id } of jobsSchema.parse(await qmp.execute("query-jobs"))) {
    await cancel(qmp, id);
    await qmp.execute("job-dismiss", { id }).catch(() => undefined); // it dismisses itself, or is stuck: the next flattening tells
  }
}

async function cancel(qmp: QmpClient, id: string): Promise<void> {
  try {
    await qmp.execute("job-cancel", { id });
    await jobEnd(qmp, id, { timeoutMs: cancelTimeoutMs });
  } catch (error) {
    if (!(error instanceof QmpError)) throw error;
    // it has ended: there is nothing to cancel
  }
}

/** Waits until a job is over; what it says went wrong. */
async function jobEnd(qmp: QmpClient, id: string, options: { readonly timeoutMs: number; readonly signal?: AbortSignal }) {
  const end = performance.now() + options.timeoutMs;
  for (;;) {
    const job = jobsSchema.parse(await qmp.execute("query-jobs")).find((candidate) => candidate.id === id);
    if (job === undefined) return "the job is gone";
    if (job.status === "concluded") return job.error;
    if (performance.now() > end) return `the job did not end within ${options.timeoutMs / second} s`;
    await sleep(jobPollMs, options.signal);
  }
}
