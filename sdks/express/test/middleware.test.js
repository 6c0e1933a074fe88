'use strict'
// What passes the middleware: order, shapes of answers, and that nothing in it harms the app.

const assert = require('node:assert/strict')
const http = require('node:http')
const path = require('node:path')
const { test } = require('node:test')
const { ConfigurationError, turnpike } = require('../src')
const { express, major } = require('./express')
const { folder, raw, serve, spooled, until } = require('./world')

test('the event is durable before the last byte arrives', async (t) => {
  const app = await serve(t, (app) => {
    app.get('/whole', (req, res) => res.send('x'.repeat(40_000)))
    app.get('/parts', (req, res) => {
      res.set('content-length', '6')
      res.write('abc')
      setTimeout(() => res.write('def'), 30) // and no end yet: the client knows the length
      setTimeout(() => res.end(), 200)
    })
    app.get('/head', (req, res) => {
      res.writeHead(200, { 'Content-Length': 3 })
      res.write('abc')
      setTimeout(() => res.end(), 200)
    })
    app.get('/none', (req, res) => res.status(204).end())
  })
  let expected = 0
  for (const path of ['/whole', '/parts', '/head', '/none']) {
    const answer = await fetch(app.base + path)
    await answer.arrayBuffer()
    expected += 1
    assert.equal(app.events().length, expected, path)
  }
  const sizes = app.events().map((event) => event.data.responseBytes)
  assert.deepEqual(sizes.sort((a, b) => a - b), [0, 3, 6, 40_000])
})

test('what comes after an end finds headers sent, and the answer stays whole', async (t) => {
  const seen = {}
  const app = await serve(t, (app) => {
    app.get('/', (req, res) => {
      res.on('finish', () => (seen.finished = true))
      res.end('first', () => (seen.called = true))
      seen.sent = res.headersSent
      seen.again = res.end() === res
      assert.throws(() => res.setHeader('x', 'y'), { code: 'ERR_HTTP_HEADERS_SENT' })
    })
  })
  const answer = await fetch(app.base)
  assert.equal(await answer.text(), 'first')
  assert.equal(answer.headers.get('content-length'), '5')
  await until(() => seen.finished && seen.called)
  assert.deepEqual(seen, { sent: true, again: true, finished: true, called: true })
  assert.equal(app.events().length, 1)
})

test('frames stay as Node makes them', async (t) => {
  const routes = (app) => {
    app.get('/empty', (req, res) => res.end())
    app.get('/text', (req, res) => res.end('größe', 'utf8'))
    app.get('/latin', (req, res) => res.end('größe', 'latin1'))
    app.get('/chunked', (req, res) => (res.write('a'), res.end('b')))
    app.get('/304', (req, res) => res.status(304).end('x'))
    app.head('/head', (req, res) => res.set('content-length', '9').end())
    app.get('/bytes', (req, res) => res.end(new Uint8Array([1, 2, 3])))
  }
  const app = await serve(t, routes)
  const bare = express()
  routes(bare)
  const server = await new Promise((resolve) => {
    const made = bare.listen(0, '127.0.0.1', () => resolve(made))
  })
  t.after(() => (server.closeAllConnections(), server.close()))
  for (const [method, path] of [...['/empty', '/text', '/latin', '/chunked', '/304', '/bytes'].map((one) => ['GET', one]), ['HEAD', '/head']]) {
    const [with_, without] = await Promise.all([app.base, `http://127.0.0.1:${server.address().port}`].map((base) => shape(base + path, method)))
    assert.deepEqual(with_, without, path)
  }
})

async function shape(url, method) {
  return new Promise((resolve, reject) => {
    const request = http.request(url, { method }, async (answer) => {
      const chunks = []
      for await (const chunk of answer) chunks.push(chunk)
      const names = ['content-length', 'transfer-encoding']
      resolve([answer.statusCode, Buffer.concat(chunks).toString('hex'), ...names.map((name) => answer.headers[name])])
    })
    request.once('error', reject).end()
  })
}

test('a request body without a stated length is counted as it is read', async (t) => {
  const app = await serve(t, (app) => app.post('/', express.text(), (req, res) => res.send(req.body)))
  const body = new ReadableStream({ start: (c) => (c.enqueue(Buffer.from('abc')), c.enqueue(Buffer.from('de')), c.close()) })
  const answer = await fetch(app.base, { method: 'POST', body, duplex: 'half', headers: { 'content-type': 'text/plain' } })
  assert.equal(await answer.text(), 'abcde')
  assert.equal(app.events()[0].data.requestBytes, 5)
})

test('what fails is 500, who leaves early is 499, who leaves in the middle has the status he saw', async (t) => {
  let broken
  const app = await serve(t, (app) => {
    app.get('/fails', () => {
      throw new Error('as the test wants')
    })
    app.get('/waits', () => {})
    app.get('/streams', (req, res) => res.write('some'))
    app.get('/breaks', (req, res) => {
      res.write('some')
      broken = () => res.destroy()
    })
  })
  await (await fetch(`${app.base}/fails`)).text()
  const waiting = raw(app.port, { path: '/waits' }, () => {})
  await new Promise((resolve) => setTimeout(resolve, 50))
  waiting.destroy()
  const streaming = raw(app.port, { path: '/streams' }, (response, seen) => seen.length && streaming.destroy())
  raw(app.port, { path: '/breaks' }, (response, seen) => {
    response.on('error', () => {})
    if (seen.length) broken()
  })
  await until(() => app.events().length === 4)
  const statuses = Object.fromEntries(app.events().map((event) => [event.data.template ?? '', event.data.status]))
  assert.deepEqual(statuses, { '/fails': 500, '/waits': 499, '/streams': 200, '/breaks': 500 })
})

test('templates never hold a raw path', async (t) => {
  const [wildcard, told] = major < 5 ? ['/files/*', '/files/*'] : ['/files/*path', '/files/{path}'] // Express 4 has no name for it
  const app = await serve(
    t,
    (app) => {
      const inner = express.Router()
      inner.get('/orders/:id', (req, res) => res.end())
      inner.get('/', (req, res) => res.end())
      app.get(wildcard, (req, res) => res.end())
      app.use('/v1', inner)
      app.use('/tenants/:tenant', inner)
      app.use('/people/:name', inner)
    },
    { mounts: ['/v1', '/tenants/{tenant}'] },
  )
  for (const path of ['/files/a/b', '/v1/orders/3', '/tenants/acme/orders/4', '/people/jane/orders/5', '/v1', '/none/jane']) {
    await (await fetch(app.base + path)).text()
  }
  const templates = [told, '/v1/orders/{id}', '/tenants/{tenant}/orders/{id}', '{mount}/orders/{id}', '/v1', undefined]
  assert.deepEqual(app.events().map((event) => event.data.template), templates)
  assert.doesNotMatch(JSON.stringify(app.events()), /jane|acme/)
})

test("errors of the app's own functions never reach the answer", async (t) => {
  const raises = () => {
    throw new Error('no such tenant')
  }
  for (const options of [{ subject: raises }, { usage: raises }, { template: raises }, { clock: raises }, { usage: () => ({ quantity: -1 }) }]) {
    const told = []
    const app = await serve(t, (app) => app.get('/', (req, res) => res.send('ok')), {
      ...options,
      onError(kind) {
        told.push(kind)
        throw new Error('a hook that fails')
      },
    })
    assert.equal(await (await fetch(app.base)).text(), 'ok')
    assert.deepEqual(told.filter((kind) => kind !== 'retry'), ['record'])
    assert.equal(app.events().length, 0)
  }
})

test('who is not named is not counted but seen', async (t) => {
  const app = await serve(t, (app) => app.get('/', (req, res) => res.send('ok')), { subject: async () => undefined })
  await (await fetch(app.base)).text()
  assert.equal(app.events().length, 0)
  assert.equal(app.counted.stats().unattributed, 1)
})

test('a wrong option is named at the start', () => {
  const good = { url: 'https://usage.example.com', key: 'tps_x', source: '/a', subject: () => null }
  const wrong = {
    url: 'usage.example.com', key: ' ', source: 'a b', subject: null, spoolBytesMax: 10, batchEventsMax: 1001,
    whenFull: 'wait', durability: 'none', mounts: '/v1', colour: 'red', spoolFolder: path.join(__filename, 'spool'),
  }
  for (const [name, value] of Object.entries(wrong)) {
    assert.throws(() => turnpike({ ...good, spoolFolder: folder(), [name]: value }), (error) => {
      return error instanceof ConfigurationError && error.message.includes(name)
    }, name)
  }
  assert.throws(() => turnpike({ ...good, spoolFolder: `${folder()}/${'x'.repeat(120)}` }), /too long/)
})

test('the Express of this run is the one that was asked for', () => {
  assert.equal(major, process.env.TURNPIKE_TEST_EXPRESS === 'express4' ? 4 : 5)
})

test('one app without Express: plain http works too', async (t) => {
  const where = folder()
  const options = { url: 'http://127.0.0.1:65535', key: 'k', source: '/s', subject: () => 'sub-1', spoolFolder: where, shutdownSeconds: 0 }
  const counted = turnpike(options)
  const server = http.createServer((req, res) => counted(req, res, () => res.end('plain')))
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.after(async () => (server.closeAllConnections(), server.close(), counted.close()))
  assert.equal(await (await fetch(`http://127.0.0.1:${server.address().port}/x`)).text(), 'plain')
  assert.equal(spooled(where).length, 1)
})
