// A REST layer that puts each call to /rpc/NAME into the statements that PostgREST 12 makes of it, for test/t/rest.pl:
// the role and the request are settings of the transaction, which is read only for GET and for functions that are not
// volatile; arguments go by name, from the JSON of the body or one by one from the URL; the result comes as JSON.
import { createServer } from "node:http";
import pg from "pg";

const ident = pg.escapeIdentifier;
const status = { 42501: 403, 42883: 404, "25006": 405, "53300": 503, "55P03": 500 }; // else 400, as for classes it does not know

/** What PostgREST keeps of the functions of a schema. */
async function readCache(client, schema) {
  const { rows } = await client.query(
    `SELECT p.proname AS name, p.provolatile AS volatility, p.proretset AS set,
            p.prorettype = 'void'::regtype AS void, t.typtype = 'c' OR t.oid = 'record'::regtype AS composite,
            coalesce(array_agg(a.name ORDER BY a.n) FILTER (WHERE a.name IS NOT NULL), '{}')::text[] AS names,
            coalesce(array_agg(a.type::regtype::text ORDER BY a.n) FILTER (WHERE a.name IS NOT NULL), '{}')::text[] AS types,
            p.pronargs - p.pronargdefaults AS required
       FROM pg_proc p JOIN pg_type t ON t.oid = p.prorettype
       LEFT JOIN LATERAL unnest(p.proargnames[1:p.pronargs], p.proargtypes::oid[]) WITH ORDINALITY AS a (name, type, n) ON true
      WHERE p.pronamespace = $1::regnamespace AND p.prokind = 'f' AND p.prorettype <> 'trigger'::regtype
      GROUP BY p.oid, t.oid`,
    [schema],
  );
  return rows;
}

/** The one function of this name that has all these arguments, and all of whose other arguments have defaults. */
function resolve(cache, name, given) {
  const found = cache.filter((f) =>
    f.name === name && given.every((arg) => f.names.includes(arg)) &&
    f.names.slice(0, f.required).every((arg) => given.includes(arg))
  );
  if (found.length > 1) {
    throw Object.assign(new Error(`more than one function ${name}`), { status: 300, code: "PGRST203" });
  }
  if (!found.length) throw Object.assign(new Error(`no function ${name}(${given})`), { status: 404, code: "PGRST202" });
  return found[0];
}

function statement(schema, f, given, fromBody) {
  const type = (arg) => f.types[f.names.indexOf(arg)];
  const scalar = !f.composite;
  const args = given.map((arg, i) =>
    `${ident(arg)} := ${fromBody ? `pgrst_body.${ident(arg)}` : `$${i + 1}::${type(arg)}`}`
  ).join(", ");
  const fn = `${ident(schema)}.${ident(f.name)}(${args})`;
  const call = scalar ? `(SELECT ${fn} pgrst_scalar) pgrst_call` : `${fn} pgrst_call`;
  const body = !fromBody || !given.length ? `FROM ${call}` : `FROM (SELECT $1::json AS json_data) pgrst_payload,
    LATERAL (SELECT ${given.map(ident).join(", ")} FROM json_to_record(pgrst_payload.json_data)
      AS _(${given.map((arg) => `${ident(arg)} ${type(arg)}`).join(", ")}) LIMIT 1) pgrst_body,
    LATERAL ${call}`;
  const row = scalar ? "_postgrest_t.pgrst_scalar" : "_postgrest_t";
  return `WITH pgrst_source AS (SELECT pgrst_call.${scalar ? "pgrst_scalar" : "*"} ${body})
    SELECT null::bigint AS total_result_set, pg_catalog.count(_postgrest_t) AS page_total,
      coalesce(json_agg(${row})${f.set ? "" : "->0"}, '${f.set ? "[]" : "null"}')::text AS body,
      nullif(current_setting('response.headers', true), '') AS response_headers,
      nullif(current_setting('response.status', true), '') AS response_status
    FROM (SELECT ${ident(f.name)}.* FROM pgrst_source AS ${ident(f.name)}) _postgrest_t`;
}

/** Serves on a port of its own choice; answers the URL and how to stop. */
export async function serve({ connectionString, schema, role }) {
  const pool = new pg.Pool({ connectionString, max: 4 });
  const client = await pool.connect();
  const cache = await readCache(client, schema);
  client.release();

  async function call(method, name, body, query) {
    const fromBody = method === "POST";
    const args = fromBody ? JSON.parse(body || "{}") : Object.fromEntries(query);
    const given = Object.keys(args);
    const f = resolve(cache, name, given);
    const readOnly = !fromBody || f.volatility !== "v";
    const client = await pool.connect();
    try {
      await client.query(`BEGIN ISOLATION LEVEL READ COMMITTED READ ${readOnly ? "ONLY" : "WRITE"}`);
      await client.query(
        `SELECT set_config('search_path', '"public"', true), set_config('role', $1, true),
           set_config('request.jwt.claims', $2, true), set_config('request.method', $3, true),
           set_config('request.path', $4, true), set_config('request.headers', '{}', true), set_config('request.cookies', '{}', true)`,
        [role, JSON.stringify({ role }), method, `/rpc/${name}`],
      );
      const { rows } = await client.query(
        statement(schema, f, given, fromBody),
        fromBody ? (given.length ? [body] : []) : Object.values(args),
      );
      await client.query("COMMIT");
      return { status: f.void ? 204 : 200, body: f.void ? undefined : rows[0].body };
    } catch (error) {
      await client.query("ROLLBACK");
      throw error;
    } finally {
      client.release();
    }
  }

  const server = createServer(async (request, response) => {
    const url = new URL(request.url, "http://localhost");
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    let answer;
    try {
      answer = await call(
        request.method,
        url.pathname.replace(/^\/rpc\//, ""),
        Buffer.concat(chunks).toString(),
        url.searchParams,
      );
    } catch (error) {
      const { code, message, detail: details, hint } = error;
      answer = { status: error.status ?? status[code] ?? 400, body: JSON.stringify({ code, message, details, hint }) };
    }
    response.writeHead(answer.status, { "Content-Type": "application/json; charset=utf-8" }).end(answer.body);
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    cache,
    call,
    close: async () => {
      server.closeAllConnections();
      server.close();
      await pool.end();
    },
  };
}
