import nodeCrypto from "node:crypto";
import { syncBuiltinESMExports } from "node:module";

import type { SeededRandom } from "@roost/testing";

/**
 * Has all ids of this process drawn from `random` until it is disposed of: ids decide the order of rows and of what is equal to placement, so a seed replays what happened only with the same ids.
 */
export function seededIds(random: SeededRandom): Disposable {
  const original = { randomUUID: nodeCrypto.randomUUID, getRandomValues: crypto.getRandomValues };
  const digits = (count: number) => Array.from({ length: count }, () => random.integer(16).toString(16)).join("");
  const randomUUID = () => `${digits(8)}-${digits(4)}-4${digits(3)}-8${digits(3)}-${digits(12)}` as const;
  nodeCrypto.randomUUID = randomUUID;
  syncBuiltinESMExports(); // for those who import it by name
  crypto.randomUUID = randomUUID;
  crypto.getRandomValues = <Values extends ArrayBufferView | null>(values: Values): Values => {
    if (values instanceof Uint8Array) for (let index = 0; index < values.length; index += 1) values[index] = random.integer(256);
    return values;
  };
  return {
    [Symbol.dispose]: () => {
      nodeCrypto.randomUUID = original.randomUUID;
      syncBuiltinESMExports();
      crypto.randomUUID = original.randomUUID;
      crypto.getRandomValues = original.getRandomValues;
    },
  };
}
