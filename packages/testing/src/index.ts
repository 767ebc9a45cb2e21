export { SeededRandom } from "./seeded-random.ts";
export { instanceTag, listOwnedResources } from "./leaks.ts";
