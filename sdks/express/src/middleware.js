'use strict'
// The middleware: sees an answer pass, and lets its end through once the event is durable.

const { Recorder } = require('./recorder')
const { templateOf } = require('./templates')

const BODILESS = new Set([204, 205, 304])
const FAILED = 500
const LEFT = 499

/** Returns Express middleware; mount it first, so that it sees what really goes out. */
function turnpike(options) {
  const recorder = new Recorder(options)
  const middleware = (req, res, next) => {
    new Exchange(recorder, req, res).watch()
    next()
  }
  middleware.stats = () => recorder.stats()
  middleware.close = () => recorder.close()
  return middleware
}

/** One request and its answer. */
class Exchange {
  constructor(recorder, req, res) {
    this.recorder = recorder
    this.req = req
    this.res = res
    this.method = req.method
    this.started = performance.now()
    this.requestBytes = 0
    this.responseBytes = 0
    this.recorded = null // a promise once the event is on its way
    this.ended = false
    this.stated = null // the content-length given to writeHead, which getHeader does not know
    this.write = res.write
    this.end = res.end
  }

  watch() {
    const { req, res } = this
    const stated = lengthOf(req.headers['content-length'])
    if (stated === null) this.countRequest()
    else this.requestBytes = stated
    const { writeHead } = res
    res.writeHead = (...values) => {
      this.stated = statedIn(values.at(-1))
      return writeHead.apply(res, values)
    }
    res.write = (...values) => this.onWrite(...values)
    res.end = (...values) => this.onEnd(...values)
    res.once('close', () => this.onClose())
  }

  countRequest() {
    const { push } = this.req
    this.req.push = (chunk, encoding) => {
      this.requestBytes += sizeOf(chunk, encoding)
      return push.call(this.req, chunk, encoding)
    }
  }

  /** A part that completes a stated length is held back like an end. */
  onWrite(chunk, ...rest) {
    const { res } = this
    if (!this.ended) this.responseBytes += sizeOf(chunk, rest[0])
    const stated = this.stated ?? lengthOf(res.getHeader('content-length'))
    if (stated !== null && this.responseBytes >= stated && this.recorded === null) this.record(res.statusCode)
    if (this.recorded === null) return this.write.call(res, chunk, ...rest)
    this.recorded.then(() => this.write.call(res, chunk, ...rest))
    return true
  }

  onEnd(chunk, encoding, callback) {
    const { res } = this
    if (this.ended) {
      this.recorded.then(() => this.end.call(res, chunk, encoding, callback)) // after the first, as Node would
      return res
    }
    this.ended = true
    const body = typeof chunk === 'function' ? undefined : chunk
    this.responseBytes += sizeOf(body, encoding)
    this.sendHead(body, encoding)
    const recorded = this.recorded ?? this.record(res.statusCode)
    recorded.then(() => this.end.call(res, chunk, encoding, callback))
    return res
  }

  /** Fixes the head, as `end` does, so that what comes after finds `headersSent`; it leaves with the body. */
  sendHead(body, encoding) {
    const { res } = this
    if (res.headersSent || this.req.httpVersionMajor > 1) return
    const framed = res.hasHeader('content-length') || res.hasHeader('transfer-encoding') || res.hasHeader('trailer')
    if (!framed && this.method !== 'HEAD' && !BODILESS.has(res.statusCode)) res.setHeader('content-length', sizeOf(body, encoding))
    res.writeHead(res.statusCode)
  }

  /** The connection went down before the answer was complete: the client's doing, or the app's. */
  onClose() {
    if (this.recorded !== null) return
    const { socket } = this.req
    const left = socket.readableEnded || socket.errored != null
    this.record(left ? (this.res.headersSent ? this.res.statusCode : LEFT) : FAILED)
  }

  record(status) {
    const hasBody = this.method !== 'HEAD' && !BODILESS.has(status)
    this.recorded = this.recorder.record({
      req: this.req,
      res: this.res,
      method: this.method,
      template: templateOf(this.req, this.recorder.options.mounts),
      status,
      requestBytes: this.requestBytes,
      responseBytes: hasBody ? this.responseBytes : 0,
      durationMs: performance.now() - this.started,
    })
    return this.recorded
  }
}

/** The content-length among the headers of `writeHead`: an object, pairs, or a flat list. */
function statedIn(headers) {
  if (headers === null || typeof headers !== 'object') return null
  const pairs = !Array.isArray(headers) ? Object.entries(headers)
    : Array.isArray(headers[0]) ? headers
    : headers.flatMap((name, place) => (place % 2 === 0 ? [[name, headers[place + 1]]] : []))
  const found = pairs.find(([name]) => String(name).toLowerCase() === 'content-length')
  return found === undefined ? null : lengthOf(found[1])
}

function lengthOf(header) {
  return /^\d+$/.test(String(header ?? '')) ? Number(header) : null
}

function sizeOf(chunk, encoding) {
  if (chunk == null) return 0
  return typeof chunk === 'string' ? Buffer.byteLength(chunk, typeof encoding === 'string' ? encoding : 'utf8') : (chunk.byteLength ?? 0)
}

module.exports = { turnpike }
