import { RoostError, type Build, type RoostClient } from "@roost/sdk";

import { CliError } from "../../failure.ts";

const wholeId = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
/** What may be the beginning of an id. It may be a template's name as well, which goes first */
const partOfId = /^[0-9a-f-]{1,36}$/;
/** Builds that are looked through for the beginning of an id, the newest */
const searchedMax = 1000;

/** The build that somebody meant: by id, by a template for its newest one, or by the beginning of an id. */
export async function findBuild(client: RoostClient, reference: string, signal: AbortSignal): Promise<Build> {
  if (wholeId.test(reference)) return client.builds.get(reference, { signal });
  const ofTemplate = await newestOf(client, reference, signal);
  if (ofTemplate !== undefined) return ofTemplate;
  const { builds } = await client.builds.listPage({ limit: searchedMax, signal });
  const found = partOfId.test(reference) ? builds.filter(({ id }) => id.startsWith(reference)) : [];
  const [first, second] = found;
  if (first === undefined)
    throw new RoostError("build_not_found", `there is no build ${reference}, nor a template with builds of that name`);
  if (second === undefined) return first;
  throw new CliError(`${reference} is the beginning of ${found.length} builds`, {
    hint: "give more of the id; `roost template builds` lists them",
  });
}

async function newestOf(client: RoostClient, name: string, signal: AbortSignal): Promise<Build | undefined> {
  try {
    return (await client.builds.listPage({ template: name, limit: 1, signal })).builds[0];
  } catch (error) {
    if (error instanceof RoostError && (error.is("template_not_found") || error.is("request_invalid"))) return undefined;
    throw error;
  }
}
