'use strict'
// What the tests share: a spool in a folder of its own, an app behind the middleware, and a look at what is on the disk.

const fs = require('node:fs')
const http = require('node:http')
const os = require('node:os')
const path = require('node:path')
const { decode } = require('../src/segments')
const { turnpike } = require('../src')
const { express } = require('./express')

const folders = []
process.once('exit', () => folders.forEach((folder) => fs.rmSync(folder, { recursive: true, force: true })))

function folder() {
  folders.push(fs.mkdtempSync(path.join(os.tmpdir(), 'turnpike-sdk-')))
  return folders.at(-1)
}

/** All events in a spool's segments, whoever wrote them. */
function spooled(where) {
  const names = fs.readdirSync(where).filter((name) => name.endsWith('.seg'))
  return names.flatMap((name) => decode(fs.readFileSync(path.join(where, name)))).map((line) => JSON.parse(line.event))
}

/** An Express app whose door is away: what it records stays in the spool. */
async function serve(t, routes, options = {}) {
  const where = folder()
  const counted = turnpike({
    url: 'http://127.0.0.1:65535',
    key: 'tps_test',
    source: '/gateways/test',
    subject: () => 'sub-1',
    spoolFolder: where,
    backoffSeconds: 30,
    shutdownSeconds: 0.2,
    ...options,
  })
  const app = express()
  app.use(counted)
  routes(app)
  app.use((error, req, res, next) => (res.headersSent ? next(error) : res.status(500).end()))
  app.set('env', 'test') // Express prints no stack then
  const server = await new Promise((resolve) => {
    const made = app.listen(0, '127.0.0.1', () => resolve(made))
  })
  t.after(async () => {
    server.closeAllConnections()
    server.close()
    await counted.close()
  })
  const base = `http://127.0.0.1:${server.address().port}`
  return { base, counted, where, port: server.address().port, events: () => spooled(where) }
}

/** Sends a request over a bare connection and calls `onData` with all that has arrived so far. */
function raw(port, request, onData) {
  const socket = http.request({ port, host: '127.0.0.1', ...request })
  socket.on('response', (response) => {
    let seen = Buffer.alloc(0)
    onData(response, seen)
    response.on('data', (chunk) => {
      seen = Buffer.concat([seen, chunk])
      onData(response, seen)
    })
  })
  socket.on('error', () => {})
  socket.end()
  return socket
}

async function until(holds) {
  for (let tries = 0; tries < 300; tries += 1) {
    if (await holds()) return
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  throw new Error('waited in vain')
}

module.exports = { folder, spooled, serve, raw, until }
