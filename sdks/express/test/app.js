'use strict'
// The app the conformance scenarios call: the routes of shapes.json on Express.

const { express } = require('./express')
const { turnpike } = require('../src')

const told = []
const OK = '{"ok": true}\n'
const camel = (name) => name.replace(/_(\w)/g, (_, letter) => letter.toUpperCase())
const snake = (name) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
const renamed = (values, rename) => Object.fromEntries(Object.entries(values).map(([name, value]) => [rename(name), value]))

const counted = turnpike({
  url: process.env.TURNPIKE_URL,
  key: process.env.TURNPIKE_KEY,
  source: process.env.TURNPIKE_SOURCE,
  subject: (req) => req.get('x-subject'),
  usage(call) {
    if (call.template === '/free') return null
    const { tokens } = call.req
    return tokens === undefined ? {} : { quantity: tokens, meter: 'tokens', properties: { tokens } }
  },
  onRejected: (event, reason) => told.push([event.subject, reason]),
  ...renamed(JSON.parse(process.env.TURNPIKE_OPTIONS ?? '{}'), camel),
})

async function pieces(res) {
  for (let piece = 0; piece < 10; piece += 1) {
    await new Promise(setImmediate)
    res.write('x'.repeat(5000))
  }
  res.end()
}

const app = express()
app.set('etag', false)
if (!process.env.TURNPIKE_OFF) app.use(counted) // bare for overhead.py
app.get('/_stats', (req, res) => res.json({ ...renamed(counted.stats(), snake), told }))
app.get('/orders/:id', (req, res) => res.type('json').send(OK))
app.delete('/orders/:id', (req, res) => res.status(204).end())
app.post('/orders', express.json(), (req, res) => res.status(201).type('json').send(OK))
app.get('/stream', (req, res) => pieces(res))
app.get('/parts', (req, res) => pieces(res.set('content-length', '50000')))
app.get('/fail', () => {
  throw new Error('as the test wants')
})
app.get('/free', (req, res) => res.send(OK))
app.post('/tokens/:count', (req, res) => {
  req.tokens = Number(req.params.count)
  res.send(OK)
})
app.use((error, req, res, next) => (res.headersSent ? next(error) : res.status(500).end())) // says nothing on the console

const server = app.listen(0, '127.0.0.1', () => console.log(`listening ${server.address().port}`))
process.once('SIGTERM', () => {
  server.closeIdleConnections()
  server.close(async () => {
    await counted.close()
    process.exit(0)
  })
})
