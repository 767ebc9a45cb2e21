import { run } from "@roost/kit";
import { z } from "zod";

const routesSchema = z.array(z.object({ dst: z.string(), dev: z.string().optional(), scope: z.string().optional() }));

/**
 * The networks this host is plugged into where it has its way out: its neighbours there are not the internet to guests, even
 * where they have public addresses. Read once, at start.
 */
export async function findLocalNetworks(): Promise<string[]> {
  const routes = routesSchema.parse(JSON.parse((await run(["ip", "-json", "-4", "route", "show"])) || "[]"));
  return localNetworksOf(routes);
}

export function localNetworksOf(routes: z.infer<typeof routesSchema>): string[] {
  const uplinks = new Set(routes.filter(({ dst }) => dst === "default").map(({ dev }) => dev));
  return routes.filter(({ dst, dev, scope }) => scope === "link" && dst !== "default" && uplinks.has(dev)).map(({ dst }) => dst);
}
