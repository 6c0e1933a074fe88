'use strict'
// A small API whose calls are billed: keys name subscriptions, and the middleware counts what was answered.
//
//   TURNPIKE_URL=https://usage.example.com TURNPIKE_KEY=tps_... TURNPIKE_SOURCE=/gateways/one EXAMPLE_KEYS=keys.json node app.js

const { createHash } = require('node:crypto')
const { readFileSync } = require('node:fs')
const express = require('../vendor/express.cjs') // yours: require('express')
const { turnpike } = require('../src') // yours: require('turnpike-express')

const keys = JSON.parse(readFileSync(process.env.EXAMPLE_KEYS, 'utf8')) // SHA-256 of each consumer's key -> subscription id
const aheadMs = Number(process.env.CLOCK_OFFSET_SECONDS ?? 0) * 1000 // only against the sandbox, whose clock runs ahead

const counted = turnpike({
  url: process.env.TURNPIKE_URL,
  key: process.env.TURNPIKE_KEY,
  source: process.env.TURNPIKE_SOURCE,
  subject: (req) => req.subscription,
  clock: () => new Date(Date.now() + aheadMs),
})

const app = express()
app.use(counted) // first, so that it sees what really goes out
app.use((req, res, next) => {
  req.subscription = keys[createHash('sha256').update(req.get('x-api-key') ?? '').digest('hex')]
  if (req.subscription === undefined) return res.status(401).json({ error: 'send a valid key in X-Api-Key' })
  next()
})
app.get('/orders', (req, res) => res.json([{ id: 1, total: 12 }]))
app.get('/orders/:id', (req, res) => res.json({ id: Number(req.params.id), total: 12 }))

const server = app.listen(Number(process.env.PORT ?? 0), '127.0.0.1', () => console.log(`listening ${server.address().port}`))

for (const signal of ['SIGTERM', 'SIGINT']) {
  process.once(signal, () => {
    server.closeIdleConnections()
    server.close(async () => {
      await counted.close() // after the last answer: sends what is left
      process.exit(0)
    })
  })
}
