// An ES module with Express 5, typed as the README has it; never run. The package is found by its own name, as an app finds it.
import express, { type Request, type Response } from 'express'
import { ConfigurationError, turnpike, type Call, type Stats, type TurnpikeMiddleware, type Usage } from 'turnpike-express'

interface Known extends Request {
  subscription?: string
  tokens?: number
}

function usageOf(call: Call<Known, Response>): Usage | null {
  const bytes: number = call.requestBytes + call.responseBytes + call.durationMs + call.status
  if (call.template === null || call.method === 'OPTIONS') return null
  return { quantity: call.req.tokens ?? bytes, meter: 'tokens', properties: { tokens: 1 } }
}

const counted: TurnpikeMiddleware = turnpike<Known, Response>({
  url: 'https://usage.example.com',
  key: () => 'tps_x',
  source: '/gateways/orders',
  subject: async (req, res) => (res.locals.known ? req.subscription : null),
  usage: usageOf,
  template: (req) => req.path,
  mounts: ['/v1'],
  durability: 'process',
  whenFull: 'drop',
  onRejected: (event, reason, message) => console.error(event.id, reason.trim(), message.trim()),
  onDropped: (events) => console.error(events.toFixed()),
  onError: (kind, problem) => console.error(kind.trim(), problem.trim()),
})
express().use(counted).use('/v1', counted)

const { state, spoolBytes }: Stats = counted.stats()
const left: Promise<void> = counted.close()
console.info(state === 'clock_ahead', spoolBytes.toFixed(), left, new ConfigurationError('url').message)

const good = { url: 'https://usage.example.com', key: 'tps_x', source: '/a', subject: () => null }
// @ts-expect-error the subject is what a call is billed to
turnpike({ url: good.url, key: good.key, source: good.source })
// @ts-expect-error there are two kinds
turnpike({ ...good, durability: 'none' })
// @ts-expect-error no such option
turnpike({ ...good, colour: 'red' })
// @ts-expect-error whole numbers, no texts
turnpike({ ...good, usage: () => ({ quantity: '1' }) })
// @ts-expect-error a number of seconds
turnpike({ ...good, flushSeconds: '1' })
// @ts-expect-error no such state
console.info(counted.stats().state === 'asleep')
