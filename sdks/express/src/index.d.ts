import type { IncomingMessage, ServerResponse } from 'node:http'

/** What is known of a call once it is answered. Nothing of `req` and `res` is sent. */
export interface Call<Req = any, Res = any> {
  req: Req
  res: Res
  method: string
  template: string | null
  status: number
  requestBytes: number
  responseBytes: number
  durationMs: number
}

/** How a call counts: once for all meters of the plan, unless said otherwise. `properties` are whole numbers a meter may add. */
export interface Usage {
  quantity?: number
  meter?: string
  properties?: Record<string, number>
}

export interface Options<Req = any, Res = any> {
  /** The collector's address. */
  url: string
  /** The sender's key (tps_...), or a function that returns it. */
  key: string | (() => string)
  /** The source of the key, or one below it. */
  source: string
  /** The subscription id behind a request; nothing: not counted. */
  subject: (req: Req, res: Res) => string | null | undefined | Promise<string | null | undefined>
  /** How a call counts; null: not at all. */
  usage?: (call: Call<Req, Res>) => Usage | null
  /** The URL template, instead of Express's route. */
  template?: (req: Req) => string | null
  /** Templates under which routers are mounted, e.g. ['/v1', '/tenants/{tenant}']. */
  mounts?: string[]
  spoolFolder?: string
  spoolBytesMax?: number
  spoolAgeMaxSeconds?: number
  durability?: 'disk' | 'process'
  whenFull?: 'block' | 'drop'
  waitSeconds?: number
  memoryEventsMax?: number
  rejectedBytesMax?: number
  batchEventsMax?: number
  batchBytesMax?: number
  flushSeconds?: number
  timeoutSeconds?: number
  backoffSeconds?: number
  backoffMaxSeconds?: number
  unauthorizedPauseSeconds?: number
  shutdownSeconds?: number
  clock?: () => Date
  onRejected?: (event: any, reason: string, message: string) => void
  onDropped?: (events: number) => void
  onError?: (kind: string, problem: string) => void
}

/** Counters of one process. `recorded` = `spooled` + `dropped` + `inMemory`. */
export interface Stats {
  recorded: number
  spooled: number
  dropped: number
  inMemory: number
  unattributed: number
  errors: number
  accepted: number
  rejected: number
  retries: number
  spoolBytes: number
  state: 'idle' | 'sending' | 'retrying' | 'unauthorized' | 'clock_ahead'
}

export interface TurnpikeMiddleware {
  (req: IncomingMessage, res: ServerResponse, next: (error?: any) => void): void
  stats(): Stats
  /** Stores what is in memory and sends what can be sent in time. Call it after `server.close`. */
  close(): Promise<void>
}

/** An option is wrong: the app should not start. The message names the option and the remedy. */
export class ConfigurationError extends Error {}

/** Returns Express middleware; mount it first, so that it sees what really goes out. */
export function turnpike<Req = any, Res = any>(options: Options<Req, Res>): TurnpikeMiddleware
