// Reading requests, and what to answer when something is wrong with them.
import { isUnavailable, sqlstate } from "./wahook.ts";

const maxBody = 4 << 20; // Meta sends up to 3 MB; the limit that counts is the database's

export class Refusal extends Error {
  constructor(readonly status: number, readonly reason: string) {
    super(reason);
  }
}

/** The text that arrived, to the byte: parsed and written again, its signature would not match. */
export async function rawBody(request: Request): Promise<string> {
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  let text = "";
  let size = 0;
  for await (const chunk of request.body ?? []) {
    if ((size += chunk.length) > maxBody) throw new Refusal(413, "too large");
    text += decode(decoder, chunk);
  }
  return text + decode(decoder);
}

function decode(decoder: TextDecoder, chunk?: Uint8Array): string {
  try {
    return decoder.decode(chunk, { stream: chunk !== undefined });
  } catch {
    throw new Refusal(400, "not UTF-8");
  }
}

/** A caller's mistakes have a status of their own; 503 makes Meta and the worker come again. */
export function statusOf(error: unknown): number {
  if (error instanceof Refusal) return error.status;
  if (isUnavailable(error)) return 503;
  const known: Record<string, number> = { WH001: 401, WH006: 503, WH007: 400, WH008: 413, "22021": 400 };
  return known[sqlstate(error) ?? ""] ?? 500;
}

/** An error as it may be logged and answered: without its text, which may quote a payload. */
export function nameOf(error: unknown): string {
  if (error instanceof Refusal) return error.reason;
  if (!(error instanceof Error)) return typeof error;
  return (error as { code?: string }).code ?? error.name; // an SQLSTATE, ECONNREFUSED, ...
}
