import { z } from "zod";

import type { VmRecord } from "../driver.ts";
import { vmLayout } from "./layout.ts";
import { QmpClient, QmpConnectionError } from "./qmp.ts";

const nameSchema = z.object({ name: z.string().max(128).optional() });

/**
 * Connects to the VMM of a record. The socket lies in a folder that the VMM can write to: one that was taken over may have put a link to the socket of
 * another in its place, and what was meant for it would be done to the other. So the VMM is asked for its name.
 */
export async function connectControl(record: VmRecord): Promise<QmpClient> {
  const qmp = await QmpClient.connect(vmLayout(record.folder).qmpSocket);
  try {
    const { name } = nameSchema.parse(await qmp.execute("query-name"));
    if (name !== record.vmmName)
      throw new QmpConnectionError(`the control socket leads to ${name ?? "a VM without a name"}`, { violation: true });
    return qmp;
  } catch (error) {
    qmp.close();
    throw error;
  }
}
