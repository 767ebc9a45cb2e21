export { SeededRandom } from "./seeded-random.ts";
export { earlyText, proxyCredentials, proxyServersScript } from "./proxy-servers.ts";
export { instanceTag, listOwnedResources } from "./leaks.ts";
