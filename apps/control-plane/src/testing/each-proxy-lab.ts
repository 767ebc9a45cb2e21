import { poll } from "@roost/kit";
import { afterEach, beforeEach } from "vitest";

import { ProxyLab } from "./proxy-lab.ts";

/** The sandbox that most tests of the data plane are about, and the port of a server in it that is not the guest agent. */
export const id = "i0000000000000000000a";
export const app = 3000;

/** A new lab for each test of a file. `prepare` gets it before the test. */
export function eachProxyLab(prepare: (lab: ProxyLab) => Promise<void> | void): void {
  let lab: ProxyLab;
  beforeEach(async () => {
    lab = await ProxyLab.start();
    await prepare(lab);
  });
  afterEach(async () => lab[Symbol.asyncDispose]());
}

export async function until(what: string, isSo: () => boolean): Promise<void> {
  await poll({ what, timeoutMs: 30_000, intervalMs: 5 }, () => (isSo() ? true : undefined));
}
