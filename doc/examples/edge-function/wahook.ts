// A small client for wahook: a connection pool, and one function for each SQL call that an edge function needs.
// It keeps no state of its own between calls and prepares no named statements, so it works through PgBouncer in
// transaction mode.

// @ts-types="@types/pg"
import pg from "pg";

/** A message as a claim hands it over; message, contact and metadata are as Meta sent them. */
export interface Message {
  whatsapp_message_id: string;
  attempt: number;
  received_at: string;
  kind: string | null;
  correlation_id: string;
  // deno-lint-ignore no-explicit-any
  message: any;
  // deno-lint-ignore no-explicit-any
  contact: any;
  // deno-lint-ignore no-explicit-any
  metadata: any;
}

/** A conversation that is locked for us, with its messages in order. */
export interface Claim {
  conversation_id: string;
  lock_id: string | null; // null: a dead letter without a conversation, whose fate the worker records
  lock_token: string; // only grows; a fencing token for systems outside
  lock_expires_at: string;
  user_id: string;
  whatsapp_phone: string | null;
  agent_type: string | null;
  service: string;
  conversation_context: Record<string, unknown>;
  messages: Message[];
}

/** What became of one update of a delivery. */
export interface Receipt {
  whatsapp_message_id: string | null;
  kind: string;
  conversation_id: string | null;
  service: string | null;
  outcome: "accepted" | "duplicate" | "rate_limited" | "recorded" | "quarantined";
  correlation_id: string;
}

export type Health = {
  status: "ok" | "degraded" | "down";
  reasons: { reason: string; severity: string; message: string }[];
  queue: Record<string, unknown>;
  dead_letters: Record<string, unknown>;
  worker: Record<string, unknown>;
};

export type Alert = {
  alert_type: string;
  severity: string;
  message: string;
};

export type Stat = {
  metric_name: string;
  value: number;
  unit: string;
};

/** Work in the database that is done in the transaction that completes its message: exactly once. */
export type Work = (tx: pg.ClientBase) => Promise<unknown>;

/** What a handler knows besides its message. The signal is aborted when its time is over. */
export interface Context {
  claim: Claim;
  signal: AbortSignal;
  featureEnabled(flag: string): Promise<boolean>;
  agent(agentType: string): Agent;
}

/** A chat message, as models take and give it. */
// deno-lint-ignore no-explicit-any
export type ChatMessage = { role: string; content: any; [key: string]: unknown };

/** What an agent remembers of the conversation, for one turn. */
export interface Agent {
  /** The body of the request to the model: system prompt, memory, and the new message, within the agent's budget. */
  prompt(messages: (Message | ChatMessage)[]): Promise<Record<string, unknown>>;
  /** Work that remembers the new message and the answer; return it, and it is done once. */
  save(messages: (Message | ChatMessage)[], usage?: unknown): Work;
}

/** Processes a message, or throws. What it returns is done in the transaction that completes the message. */
export type Handler = (message: Message, context: Context) => Promise<Work | void>;

/** The SQLSTATE of an error, where the server raised it. */
export function sqlstate(error: unknown): string | undefined {
  return error instanceof pg.DatabaseError ? error.code : undefined;
}

/** The server can't be reached, is starting or going down, has no connection left, or has refused all but reading. */
export function isUnavailable(error: unknown): boolean {
  const code = sqlstate(error);
  if (code) return /^(08|57P0|53|25006)/.test(code);
  return error instanceof Error &&
    /connect|ECONN|EPIPE|ENOTFOUND|ETIMEDOUT|EAI_AGAIN|timeout/i.test(
      `${(error as { code?: string }).code} ${error.message}`,
    );
}

const BUSY = "55P03"; // another transaction is at this conversation at the moment: nothing was done
const PAUSES_MS = [50, 200, 800];

export class Wahook {
  readonly pool: pg.Pool;
  readonly #schema: string;

  constructor(options: pg.PoolConfig & { schema?: string }) {
    const { schema = "public", ...config } = options;
    this.#schema = pg.escapeIdentifier(schema);
    this.pool = new pg.Pool({ connectionTimeoutMillis: 3000, query_timeout: 8000, ...config });
    // A connection that breaks while no query runs tells nobody but these; the next query on it fails, or there is none.
    this.pool.on("error", () => {});
    this.pool.on("connect", (client) => client.on("error", () => {}));
  }

  /** Waits for the connections that are in use. */
  close(): Promise<void> {
    return this.pool.end();
  }

  verifySubscription(mode: string | null, token: string | null, challenge: string | null) {
    return this.#one<string>("verify_webhook_subscription", {
      p_mode: mode,
      p_token: token,
      p_challenge: challenge,
    });
  }

  /** Repeated when the connection is lost: what was taken in before that is a duplicate then. */
  receive(body: string, signature: string | null, correlationId: string) {
    return this.#rows<Receipt>("receive_webhook", {
      p_body: body,
      p_signature: signature,
      p_correlation_id: correlationId,
    });
  }

  /** For functions that process in the request and answer when they are done. Not repeated: see release(). */
  receiveAndClaim(body: string, signature: string | null, correlationId: string) {
    return this.#rows<Claim>("receive_and_claim_webhook", {
      p_body: body,
      p_signature: signature,
      p_correlation_id: correlationId,
    }, false);
  }

  /** Not repeated when the connection is lost: what an unknown claim took comes back when its lease ends. */
  claim(limit: number, service: string | null, leaseMs: number) {
    const args = { p_limit: limit, p_service: service, p_lease: `${leaseMs} ms` };
    return this.#rows<Claim>("claim_conversations", args, false);
  }

  /** The new end of the lease, or null when the lock was lost. */
  renew(claim: Claim, leaseMs: number) {
    return this.#one<Date | null>("renew_conversation_lock", {
      p_conversation_id: claim.conversation_id,
      p_lock_id: claim.lock_id,
      p_lease: `${leaseMs} ms`,
    });
  }

  /**
   * Completes one message, and does the work with it in one transaction. False: it was completed before, and the work
   * is undone. Repeated when the connection is lost, for it can't be completed twice. WH002: the lock was lost.
   */
  complete(claim: Claim, message: Message, milliseconds: number, work?: Work) {
    return this.#persist(() =>
      this.#connected(async (client) => {
        await client.query("BEGIN");
        await work?.(client);
        if (!claim.lock_id) return !!await client.query("COMMIT");
        const { rows: [row] } = await this.#call(client, "complete_webhook_messages", {
          p_conversation_id: claim.conversation_id,
          p_lock_id: claim.lock_id,
          p_whatsapp_message_ids: [message.whatsapp_message_id],
          p_processing_time_ms: milliseconds,
          p_release: false,
        });
        const done = row.complete_webhook_messages === 1;
        await client.query(done ? "COMMIT" : "ROLLBACK");
        return done;
      })
    );
  }

  /** The message becomes a dead letter, and is retried on the schedule of its service. */
  fail(claim: Claim, message: Message, error: unknown) {
    const { message: text, stack } = error instanceof Error ? error : new Error(String(error));
    return this.#rows("fail_webhook_message", {
      p_conversation_id: claim.conversation_id,
      p_lock_id: claim.lock_id,
      p_whatsapp_message_id: message.whatsapp_message_id,
      p_error: text,
      p_error_stack: stack,
    });
  }

  /** Gives the lock back; what was neither completed nor failed waits again. */
  release(claim: Claim) {
    return this.#one<boolean>("release_conversation_lock", {
      p_conversation_id: claim.conversation_id,
      p_lock_id: claim.lock_id,
    });
  }

  agent(claim: Claim, agentType: string): Agent {
    const turn = { p_conversation_id: claim.conversation_id, p_agent_type: agentType };
    return {
      prompt: (messages) => this.#one("agent_prompt", { ...turn, p_messages: JSON.stringify(messages) }),
      save: (messages, usage) => (tx) =>
        this.#call(tx, "agent_save_turn", {
          ...turn,
          p_lock_id: claim.lock_id,
          p_messages: JSON.stringify(messages),
          p_usage: JSON.stringify(usage),
        }),
    };
  }

  featureEnabled(flag: string, userId: string) {
    return this.#one<boolean>("webhook_feature_enabled", { p_flag: flag, p_user_id: userId });
  }

  /** Whether a message that failed holds up those behind it. */
  async isStrict(service: string): Promise<boolean> {
    const query = `SELECT strict_order FROM ${this.#schema}.webhook_services WHERE name = $1`;
    const { rows } = await this.#persist(() => this.#connected((client) => client.query(query, [service])));
    return rows[0]?.strict_order ?? false;
  }

  checkRateLimit(identifier: string, bucket: string, tokens = 1) {
    return this.#one<{ allowed: boolean; blocked_until: string | null }>("check_rate_limit", {
      p_identifier: identifier,
      p_bucket: bucket,
      p_tokens_requested: tokens,
    }, false);
  }

  /** Without the details: the ids of conversations are nobody's business outside. */
  async alerts(): Promise<Alert[]> {
    const rows = await this.#rows<Alert>("check_webhook_system_health", {});
    return rows.map(({ alert_type, severity, message }) => ({ alert_type, severity, message }));
  }

  async stats(hours = 24): Promise<Stat[]> {
    const rows = await this.#rows<Stat>("get_webhook_performance_stats", { lookback_hours: hours });
    return rows.map((row) => ({ ...row, value: Number(row.value) }));
  }

  /** Without the details, as well. */
  async health(): Promise<Health> {
    const { reasons, ...rest } = await this.#one<Health>("webhook_health", {});
    return { ...rest, reasons: reasons.map(({ reason, severity, message }) => ({ reason, severity, message })) };
  }

  /** All metrics, as text for Prometheus. */
  metrics() {
    return this.#one<string>("webhook_metrics_prometheus", {});
  }

  /** An HTML page about the last 24 hours. */
  dashboard(): Promise<string> {
    return this.#one<string>("webhook_dashboard", {});
  }

  /** All rows of a monitoring view: webhook_conversation_health, webhook_dlq_summary, ... */
  async view(name: string): Promise<Record<string, unknown>[]> {
    const query = `SELECT * FROM ${this.#schema}.${pg.escapeIdentifier(name)}`;
    return (await this.#persist(() => this.#connected((client) => client.query(query)))).rows;
  }

  async #one<T>(name: string, args: Record<string, unknown>, repeatable = true): Promise<T> {
    return (await this.#rows<Record<string, T>>(name, args, repeatable))[0][name];
  }

  async #rows<T>(name: string, args: Record<string, unknown>, repeatable = true): Promise<T[]> {
    const call = () => this.#connected((client) => this.#call(client, name, args));
    return (await this.#persist(call, repeatable)).rows as T[];
  }

  /** Arguments by name; what is undefined is left to its default. */
  #call(client: pg.ClientBase, name: string, args: Record<string, unknown>) {
    const given = Object.entries(args).filter(([, value]) => value !== undefined);
    const list = given.map(([key], i) => `${key} => $${i + 1}`).join(", ");
    return client.query(`SELECT * FROM ${this.#schema}.${name}(${list})`, given.map(([, value]) => value));
  }

  /** With a connection of the pool, which is rolled back or closed where that fails. */
  async #connected<T>(use: (client: pg.ClientBase) => Promise<T>): Promise<T> {
    const client = await this.pool.connect();
    try {
      const result = await use(client);
      client.release();
      return result;
    } catch (error) {
      const broken = isUnavailable(error) || await client.query("ROLLBACK").then(() => false, () => true);
      client.release(broken);
      throw error;
    }
  }

  /** Again after a pause, while somebody is busy at the row, and where it may be repeated, while the server is away. */
  async #persist<T>(call: () => Promise<T>, repeatable = true): Promise<T> {
    for (let tries = 0;; tries++) {
      try {
        return await call();
      } catch (error) {
        const again = sqlstate(error) === BUSY || (repeatable && isUnavailable(error));
        if (!again || tries === PAUSES_MS.length) throw error;
        await new Promise((resolve) => setTimeout(resolve, PAUSES_MS[tries] * (0.5 + Math.random())));
      }
    }
  }
}
