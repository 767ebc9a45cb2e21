import type { BuildStreamServerMessage } from "@roost/contract";

import type { OwnedId } from "../../db/owned-id.ts";
import type { BuildRow } from "../../templates/build-store.ts";
import type { Builds } from "../../templates/builds.ts";
import type { BuiltTemplates } from "../../templates/built-templates.ts";
import { viewBuild, viewLogLine } from "../../templates/template-view.ts";
import { closeCodes, type JsonSocket } from "./json-socket.ts";

export interface FollowedBuild {
  readonly builds: Pick<Builds, "follow" | "get">;
  readonly templates: Pick<BuiltTemplates, "namesOf">;
  readonly build: OwnedId;
  /** Number of the first line */
  readonly offset: number;
}

/** `builds/{build}/logs/stream`: a build until it has ended, or the client goes away. */
export async function serveFollowBuild(socket: JsonSocket<never, BuildStreamServerMessage>, followed: FollowedBuild): Promise<void> {
  const abort = new AbortController();
  try {
    await Promise.race([forward(socket, followed, abort.signal), socket.gone()]);
  } finally {
    abort.abort();
  }
}

async function forward(socket: JsonSocket<never, BuildStreamServerMessage>, followed: FollowedBuild, signal: AbortSignal): Promise<void> {
  const { builds, templates, build: owned, offset } = followed;
  let build: BuildRow | undefined;
  let name = "";
  for await (const news of builds.follow(owned, offset, signal)) {
    if ("build" in news) {
      if (build === undefined) name = (await templates.namesOf([news.build.template_id])).get(news.build.template_id) ?? "";
      build = news.build;
      await socket.send({ type: "build", build: viewBuild(build, name) });
      continue;
    }
    for (const line of news.lines) await socket.send({ type: "line", line: viewLogLine(line) });
  }
  if (signal.aborted || build === undefined) return;
  await socket.send({ type: "end", build: viewBuild(build, name) });
  socket.close(closeCodes.normal, "the build has ended");
}
