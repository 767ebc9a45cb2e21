/**
 * The time in every image, in `s` since 1970: the same inputs give the same bytes, whenever they are built.
 * 2026-01-01T00:00:00Z.
 */
export const sourceDateEpoch = 1_767_225_600;
