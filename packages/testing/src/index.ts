export { SeededRandom } from "./seeded-random.ts";
export { earlyText, proxyCredentials, proxyServersScript } from "./proxy-servers.ts";
export { instanceTag, listOwnedResources } from "./leaks.ts";
export { TestAuthority, type TestIdentity } from "./test-authority.ts";
export { headerValues, securedRequests, securedServerScript, type SecuredRequest } from "./secured-server.ts";
export { nameServerScript } from "./name-server.ts";
