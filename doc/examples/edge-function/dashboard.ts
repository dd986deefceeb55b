// What /dashboard answers: the page that webhook_dashboard() makes, to those who have the token.
import { Buffer } from "node:buffer";
import { Refusal } from "./http.ts";
import { authorize } from "./metrics.ts";
import type { Wahook } from "./wahook.ts";

const headers = {
  "Content-Type": "text/html; charset=utf-8",
  "Content-Security-Policy":
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "Cache-Control": "no-store",
  "X-Content-Type-Options": "nosniff",
  "Referrer-Policy": "no-referrer",
};

/** A browser can't send a bearer token of itself, but asks for a name and a password: that is the token then. */
function asBearer(authorization: string): string {
  const basic = /^basic (.+)$/i.exec(authorization)?.[1];
  return basic ? `Bearer ${Buffer.from(basic, "base64").toString().replace(/^[^:]*:/, "")}` : authorization;
}

export async function dashboard(db: Wahook, request: Request, token: string | undefined): Promise<Response> {
  try {
    authorize(asBearer(request.headers.get("authorization") ?? ""), token);
  } catch (error) {
    if (!(error instanceof Refusal) || error.status !== 401) throw error;
    const ask = { "WWW-Authenticate": 'Basic realm="wahook", charset="UTF-8"' };
    return Response.json({ error: error.reason }, { status: 401, headers: ask });
  }
  return new Response(await db.dashboard(), { headers });
}
