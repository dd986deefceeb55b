// What /health and /metrics answer. The database tells both; here is who may ask.
import { Buffer } from "node:buffer";
import { createHash, timingSafeEqual } from "node:crypto";
import { Refusal } from "./http.ts";
import { isUnavailable, type Wahook } from "./wahook.ts";

/** For whoever watches from outside: 503 when nothing is processed, or nothing can even be taken in. */
export async function health(db: Wahook): Promise<Response> {
  const health = await db.health().catch((error) => {
    if (!isUnavailable(error)) throw error;
  });
  if (!health) return Response.json({ status: "down", reasons: [{ reason: "DATABASE_AWAY" }] }, { status: 503 });
  const { status, reasons, queue, dead_letters, worker } = health;
  const answer = { status, reasons, queue, dead_letters, worker: { state: worker?.state } };
  return Response.json(answer, { status: status === "down" ? 503 : 200 });
}

const digest = (text: string) => createHash("sha256").update(Buffer.from(text)).digest();

/** Refuses whoever does not bear this token; everybody, where there is none. */
export function authorize(authorization: string | null, token: string | undefined): void {
  if (!token) throw new Refusal(404, "not configured");
  // Of hashes, whose length tells nothing.
  if (!timingSafeEqual(digest(authorization ?? ""), digest(`Bearer ${token}`))) {
    throw new Refusal(401, "not authorized");
  }
}

/** The text that Prometheus reads. */
export async function metrics(db: Wahook, request: Request, token: string | undefined): Promise<Response> {
  authorize(request.headers.get("authorization"), token);
  const headers = { "Content-Type": "text/plain; version=0.0.4; charset=utf-8", "Cache-Control": "no-store" };
  return new Response(await db.metrics(), { headers });
}
