// Whether a request comes from the worker: signed as Standard Webhooks says (www.standardwebhooks.com), not long ago.
import { Buffer } from "node:buffer";
import { createHmac, timingSafeEqual } from "node:crypto";

const toleranceSeconds = 300;

function equal(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && timingSafeEqual(a, b);
}

/** False without a secret: nothing can be verified then. The bearer token counts only where one is expected. */
export function verify(headers: Headers, body: string, secret?: string, bearer?: string): boolean {
  const key = Buffer.from((secret ?? "").replace(/^whsec_/, ""), "base64");
  if (key.length === 0) return false;
  if (bearer && !equal(Buffer.from(headers.get("authorization") ?? ""), Buffer.from(`Bearer ${bearer}`))) {
    return false;
  }

  const timestamp = headers.get("webhook-timestamp") ?? "";
  if (!(Math.abs(Date.now() / 1000 - Number(timestamp)) <= toleranceSeconds)) return false;
  const signed = `${headers.get("webhook-id")}.${timestamp}.${body}`;
  const expected = createHmac("sha256", key).update(signed).digest();
  return (headers.get("webhook-signature") ?? "").split(" ").some((signature) =>
    signature.startsWith("v1,") && equal(Buffer.from(signature.slice(3), "base64"), expected)
  );
}
