// What /health and /metrics answer. The database tells both; here is who may ask.
import { Buffer } from "node:buffer";
import { createHash, timingSafeEqual } from "node:crypto";
import { Refusal } from "./http.ts";
import { isUnavailable, type Wahook } from "./wahook.ts";

export async function health(db: Wahook): Promise<Response> {
  const alerts = await db.alerts().catch((error) => {
    if (!isUnavailable(error)) throw error;
  });
  if (!alerts) return Response.json({ status: "unhealthy" }, { status: 503 });
  return Response.json({ status: alerts.length ? "degraded" : "healthy", alerts });
}

const digest = (text: string) => createHash("sha256").update(Buffer.from(text)).digest();

/** Refuses whoever does not bear this token; everybody, where there is none. */
export function authorize(request: Request, token: string | undefined): void {
  if (!token) throw new Refusal(404, "not configured");
  // Of hashes, whose length tells nothing.
  if (!timingSafeEqual(digest(request.headers.get("authorization") ?? ""), digest(`Bearer ${token}`))) {
    throw new Refusal(401, "not authorized");
  }
}

/** The text that Prometheus reads. */
export async function metrics(db: Wahook, request: Request, token: string | undefined): Promise<Response> {
  authorize(request, token);
  const headers = { "Content-Type": "text/plain; version=0.0.4; charset=utf-8", "Cache-Control": "no-store" };
  return new Response(await db.metrics(), { headers });
}
