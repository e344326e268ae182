// What a person can act on, and one sentence for everything else.

/** Something the bundle or the browser cannot do; its message is for people. */
export class CannotRun extends Error {}

/** One line for any error: the first line of its message, never a stack. */
export function sentence(error) {
  const text = String(error?.message ?? error).split("\n").find((line) => line.trim()) ?? "";
  const line = text.trim().replace(/\s+/g, " ").slice(0, 300);
  if (error instanceof CannotRun) return line;
  return `Something in the browser failed: ${line || "no reason was given"}${/[.!?]$/.test(line) ? "" : "."}`;
}
