/** What users of a sandbox are told that lost its VM and has a generation to go back to. */
export function lostVmNotice(failureReason: string, generation: number | null): string {
  return (
    `${failureReason}. It is back at generation ${generation}: resume it to go on from there, ` +
    "or resume it with memory=false to boot it with the newest state of its disk."
  );
}
