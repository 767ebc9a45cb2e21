import { expect, test } from "vitest";

import { app, id, until } from "../testing/each-proxy-lab.ts";
import { ProxyLab } from "../testing/proxy-lab.ts";
import { OpenRequests } from "./open-requests.ts";

test("a sandbox has as many requests open as the setting says, and another one as many of its own", async () => {
  await using lab = await ProxyLab.start({ openRequestsMax: 2 });
  const other = "i0000000000000000000b";
  const waiting: (() => void)[] = [];
  for (const sandbox of [id, other]) {
    lab.sandbox(sandbox);
    await lab.serve(sandbox, app, (_request, response) => void waiting.push(() => response.end("done")));
  }
  const open = [id, id, other].map(async (sandbox) => lab.fetch({ id: sandbox, port: app }));
  await until("three requests at the guests", () => waiting.length === 3);
  const refused = await lab.fetch({ id, port: app });
  expect(refused).toMatchObject({ status: 429, headers: { "retry-after": "1" } });
  expect(refused.json()).toMatchObject({ sandboxId: id, code: 429 });
  for (const answer of waiting.splice(0)) answer();
  expect((await Promise.all(open)).map(({ status }) => status)).toEqual([200, 200, 200]);
  const after = lab.fetch({ id, port: app });
  await until("the next request", () => waiting.length === 1);
  waiting[0]?.();
  expect((await after).status).toBe(200);
});

test("what was cut once is counted until it is over, and nothing is counted twice", () => {
  const requests = new OpenRequests<object>(2);
  const one = requests.open(id, {});
  const signal = one?.newTry();
  requests.cut(id, new Error("the VM ended"));
  expect(signal?.aborted).toBe(true);
  expect(requests.count).toBe(1);
  one?.[Symbol.dispose]();
  one?.[Symbol.dispose]();
  expect(requests.count).toBe(0);
  expect(requests.isConcerned(id)).toBe(false);
  expect(one?.newTry().aborted).toBe(false);
});
