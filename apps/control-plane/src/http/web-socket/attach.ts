import type { ExecStreamServerMessage } from "@roost/contract";

import { listProcesses } from "../../guest/process-control.ts";
import { parseSelector, type ProcessSelector } from "../../guest/process-selector.ts";
import { ProcessStream } from "../../guest/process-stream.ts";
import { closeCodes, type JsonSocket } from "./json-socket.ts";
import { OutputEncoder } from "./output-encoder.ts";
import type { SessionContext } from "./session.ts";

/** `processes/{selector}/stream`: output of a running process from now on. Going away leaves the process alone. */
export async function serveAttach(socket: JsonSocket<never, ExecStreamServerMessage>, context: SessionContext): Promise<void> {
  const selector = parseSelector(context.params["selector"] ?? "");
  const stream = await ProcessStream.connect(context.guest, selector, socket.closed);
  try {
    await socket.send({ type: "start", pid: stream.pid, tag: await tagOf(context, selector) });
    const encoder = new OutputEncoder(context.query["encoding"] === "base64" ? "base64" : "utf-8");
    const forward = async () => {
      for await (const output of stream) {
        for (const message of encoder.encode(output)) await socket.send(message);
      }
      for (const message of encoder.end()) await socket.send(message);
      return "ended" as const;
    };
    if ((await Promise.race([forward(), socket.gone()])) === "client gone") return;
    await socket.send({ type: "exit", exit_code: stream.exitCode ?? 0 });
    socket.close(closeCodes.normal, "the process ended");
  } finally {
    stream.close();
  }
}

async function tagOf(context: SessionContext, selector: ProcessSelector): Promise<string> {
  if ("tag" in selector) return selector.tag;
  const processes = await listProcesses(context.guest);
  return processes.find((process) => process.pid === selector.pid)?.tag ?? "";
}
