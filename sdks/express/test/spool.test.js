'use strict'
// The spool on the disk: groups, limits, damage, and segments of processes that died.

const assert = require('node:assert/strict')
const { spawn } = require('node:child_process')
const fs = require('node:fs')
const path = require('node:path')
const { test } = require('node:test')
const { Reports } = require('../src/reports')
const { Sender } = require('../src/sender')
const { encode } = require('../src/segments')
const { Spool, SpoolFullError } = require('../src/spool')
const { Writer } = require('../src/writer')
const { folder, spooled, until } = require('./world')

const event = (number) => JSON.stringify({ id: String(number), subject: 'sub-1', time: new Date().toISOString(), data: { quantity: 1 } })
const LIMITS = { bytesMax: 1 << 30, durability: 'disk' }
const stats = () => ({ recorded: 0, spooled: 0, dropped: 0, inMemory: 0, errors: 0, accepted: 0, rejected: 0, retries: 0 })

async function open(t, where = folder(), limits = LIMITS) {
  const spool = new Spool(where, limits)
  await spool.open()
  t.after(() => spool.close())
  return spool
}

test('what is stored is read in order, and is gone only once it was taken', async (t) => {
  const spool = await open(t)
  await spool.append([1, 2, 3].map(event))
  const first = await spool.read(2, 1 << 20)
  assert.deepEqual([first.events.map((one) => JSON.parse(one).id), first.more], [['1', '2'], true])
  assert.equal((await spool.read(2, 1 << 20)).events.length, 2)
  first.take()
  await spool.append([event(4)])
  const second = await spool.read(10, 1 << 20)
  assert.deepEqual(second.events.map((one) => JSON.parse(one).id), ['3', '4'])
  assert.equal(spooled(spool.folder).length, 4)
  second.take()
  assert.equal((await spool.read(10, 1 << 20)).events.length, 0)
  assert.equal(spooled(spool.folder).length, 0)
  assert.equal(spool.bytes, 0)
})

test('a batch ends at its size but holds at least one', async (t) => {
  const spool = await open(t)
  await spool.append([1, 2, 3].map(event))
  assert.equal((await spool.read(10, 2 * event(1).length + 30)).events.length, 2)
  assert.equal((await spool.read(10, 1)).events.length, 1)
})

test('a full spool says so, stores nothing of the group, and takes again once there is room', async (t) => {
  const spool = await open(t, folder(), { ...LIMITS, bytesMax: 700 })
  await spool.append([1, 2, 3].map(event))
  await assert.rejects(spool.append([4, 5, 6, 7, 8, 9].map(event)), SpoolFullError)
  assert.equal(spooled(spool.folder).length, 3)
  for (let batch = await spool.read(10, 1 << 20); batch.events.length; batch = await spool.read(10, 1 << 20)) batch.take()
  await spool.append([4, 5, 6].map(event))
  assert.equal(spooled(spool.folder).length, 3)
})

test('a write that fails half-way leaves nothing behind, and the next one is whole', async (t) => {
  const spool = await open(t)
  await spool.append([event(1)])
  const { write } = spool._handle
  spool._handle.write = async function (bytes, from) {
    spool._handle.write = async () => {
      throw Object.assign(new Error('no space left'), { code: 'ENOSPC' })
    }
    return write.call(this, bytes, from, 20)
  }
  await assert.rejects(spool.append([event(2)]), SpoolFullError)
  await spool.append([event(3)])
  assert.deepEqual(spooled(spool.folder).map((one) => one.id), ['1', '3'])
})

test('segments of the dead are taken over, those of the living are not', async (t) => {
  const where = folder()
  const code = `
    const { Spool } = require(process.argv[1])
    const spool = new Spool(process.argv[2], { bytesMax: 1e9, durability: 'disk' })
    spool.append(['{"id":"other"}']).then(() => console.log('stored'))
    setInterval(() => {}, 1000)`
  const other = spawn(process.execPath, ['-e', code, path.join(__dirname, '../src/spool.js'), where])
  await new Promise((resolve) => other.stdout.once('data', resolve))
  const spool = await open(t, where)
  assert.equal((await spool.read(10, 1000)).events.length, 0)
  other.kill('SIGSTOP')
  await spool.adopt()
  assert.equal((await spool.read(10, 1000)).events.length, 0, 'a stopped process is not dead')
  other.kill('SIGKILL')
  await new Promise((resolve) => other.once('exit', resolve))
  await Promise.all([spool.adopt(), (await open(t, where)).adopt()]) // two want it: one gets it
  const mine = (await spool.read(10, 1000)).events.length
  assert.ok(mine <= 1)
  assert.equal(spooled(where).length, 1)
  assert.equal(fs.readdirSync(where).filter((name) => name.endsWith('.sock')).length, 2)
})

test('a torn end and damaged lines of a crash do not hide what is whole', async (t) => {
  const where = folder()
  const whole = encode(event(1)) + 'ffffffff {"id":"damaged"}\n' + encode(event(2)) + encode(event(3)).slice(0, 20)
  fs.writeFileSync(path.join(where, '0123456789abcdef-00000001.seg'), whole)
  const spool = await open(t, where)
  const batch = await spool.read(10, 1 << 20)
  assert.deepEqual([batch.events.map((one) => JSON.parse(one).id), batch.damaged], [['1', '2'], ['ffffffff {"id":"damaged"}']])
  batch.take()
  assert.equal((await spool.read(10, 1 << 20)).events.length, 0)
  assert.deepEqual(fs.readdirSync(where).filter((name) => name.endsWith('.seg')), [])
})

test('what requests record at once is stored together', async (t) => {
  const spool = await open(t)
  const groups = []
  const { append } = spool
  spool.append = (events) => (groups.push(events.length), append.call(spool, events))
  const counts = stats()
  const options = { memoryEventsMax: 1000, waitSeconds: 5, whenFull: 'block' }
  const writer = new Writer(spool, options, counts, new Reports(options, counts))
  await Promise.all(Array.from({ length: 200 }, (_, number) => writer.put(event(number))))
  assert.equal(groups.reduce((sum, size) => sum + size), 200)
  assert.ok(groups.length < 10, `${groups.length} groups`)
  assert.deepEqual([counts.recorded, counts.spooled, counts.inMemory], [200, 200, 0])
})

test('a disk that does not answer delays an answer by the limit and no more', async () => {
  const counts = stats()
  const kinds = []
  const options = { memoryEventsMax: 2, waitSeconds: 0.05, whenFull: 'block', onError: (kind) => kinds.push(kind) }
  let release
  const slow = { append: () => new Promise((resolve) => (release = resolve)) }
  const writer = new Writer(slow, options, counts, new Reports(options, counts))
  await Promise.all([writer.put('a'), writer.put('b'), writer.put('c')])
  assert.deepEqual([counts.inMemory, counts.dropped, counts.spooled], [2, 1, 0])
  assert.ok(kinds.includes('late'))
  release()
  await until(() => counts.spooled === 1 && release)
  release()
  await until(() => counts.spooled === 2)
})

test('one event with a time ahead waits, and stands in nobody\'s way', async (t) => {
  const day = 86_400_000
  const spool = await open(t)
  const at = (number, ahead) => JSON.stringify({ ...JSON.parse(event(number)), time: new Date(Date.now() + ahead).toISOString() })
  await spool.append([at(1, 30 * day), at(2, 400 * day), ...Array.from({ length: 40 }, (_, place) => event(3 + place))])
  const counts = stats()
  const options = { batchEventsMax: 5, batchBytesMax: 1 << 20, spoolAgeMaxSeconds: 34 * 86_400, flushSeconds: 1, rejectedBytesMax: 4000, clock: () => new Date() }
  const seen = []
  let now = Date.now()
  const turns = async (from) => {
    const sender = new Sender(from, options, counts, new Reports(options, counts))
    sender._post = async (events) => {
      seen.push(...events.map((one) => JSON.parse(one).id))
      const ahead = events.flatMap((one, place) => (Date.parse(JSON.parse(one).time) > now + 300_000 ? [{ place, reason: 'in_the_future', message: 'm' }] : []))
      return { action: 'done', refusals: [], ahead, answeredAt: new Date(now), waitSeconds: 0, problem: '' }
    }
    for (let turn = 0; turn < 12; turn += 1) await sender._turn()
    return [counts.accepted, counts.rejected, counts.state, spooled(from.folder).map((one) => one.id).join(' ')]
  }
  assert.deepEqual(await turns(spool), [40, 1, 'clock_ahead', '1'])
  assert.equal(seen.length, 42, 'it is not sent again before it is due')
  spool._held.segments[0].due = performance.now()
  assert.deepEqual(await turns(spool), [40, 1, 'clock_ahead', '1'])
  assert.equal(seen.length, 43)
  assert.equal(spool.bytes, encode(at(1, 0)).length)
  await spool.close() // as after a crash: another process finds it
  now += 30 * day
  assert.deepEqual(await turns(await open(t, spool.folder)), [41, 1, 'idle', ''])
})

test('what is ahead gathers in one segment that is due with its first', async (t) => {
  const spool = await open(t)
  await spool.append([event(1)])
  const now = performance.now()
  for (const [number, wait] of [[2, 3_600_000], [3, 60_000], [4, 3_600_000]]) await spool.hold([event(number)], now + wait)
  assert.deepEqual(spool._held.segments.map((one) => one.due), [now + 60_000])
  assert.equal(spooled(spool.folder).length, 4)
  await spool.append([event(5)])
  spool._held.segments[0].due = now
  const sizes = []
  for (let batch = await spool.read(10, 1 << 20); batch.events.length; batch = await spool.read(10, 1 << 20)) {
    sizes.push(batch.events.length)
    batch.take()
  }
  assert.deepEqual([sizes, spooled(spool.folder), spool.bytes], [[3, 2], [], 0])
})

const noFull = fs.existsSync('/dev/full') ? false : 'this system has no /dev/full'

test('a full disk keeps nothing from being sent, and what cannot be kept is told', { skip: noFull }, async (t) => {
  const spool = await open(t)
  await spool.append([1, 2, 3].map(event))
  fs.symlinkSync('/dev/full', path.join(spool.folder, 'rejected.jsonl'))
  fs.symlinkSync('/dev/full', path.join(spool.folder, `${spool._writer}-00000002.seg`))
  const counts = stats()
  const [told, problems] = [[], []]
  const options = {
    batchEventsMax: 10, batchBytesMax: 1 << 20, spoolAgeMaxSeconds: 86_400, flushSeconds: 1, rejectedBytesMax: 4000, clock: () => new Date(),
    onRejected: (_, reason) => told.push(reason), onError: (kind) => problems.push(kind),
  }
  const sender = new Sender(spool, options, counts, new Reports(options, counts))
  const refused = (place, reason) => ({ place, reason, message: 'm' })
  sender._post = async () => ({
    action: 'done', refusals: [refused(1, 'unknown_meter')], ahead: [refused(2, 'in_the_future')], answeredAt: new Date(), waitSeconds: 0, problem: '',
  })
  await sender._turn()
  assert.deepEqual(told, ['unknown_meter', 'in_the_future'])
  assert.deepEqual(problems, ['rejected', 'ahead', 'rejected'])
  assert.deepEqual([counts.accepted, counts.rejected], [1, 2])
  assert.equal((await spool.read(10, 1 << 20)).events.length, 0)
})

test('a segment that somebody deleted is told, and hides no other', async (t) => {
  const spool = await open(t)
  await spool.append([event(1)])
  fs.rmSync(spool._active.file)
  await assert.rejects(spool.read(10, 1 << 20), /was deleted/)
  await spool.append([event(2)])
  assert.deepEqual((await spool.read(10, 1 << 20)).events.map((one) => JSON.parse(one).id), ['2'])
  assert.equal(spool.bytes, encode(event(2)).length)
})

test('events that waited for too long are set aside, not lost', async (t) => {
  const spool = await open(t)
  const old = JSON.stringify({ ...JSON.parse(event(1)), time: '2020-01-01T00:00:00.000Z' })
  await spool.append([old])
  const told = []
  const counts = stats()
  const options = {
    batchEventsMax: 10, batchBytesMax: 1 << 20, spoolAgeMaxSeconds: 86_400, flushSeconds: 1, rejectedBytesMax: 400,
    clock: () => new Date(), onRejected: (refused, reason) => told.push([refused.id, reason]),
  }
  const sender = new Sender(spool, options, counts, new Reports(options, counts))
  await sender._turn()
  assert.deepEqual(told, [['1', 'expired_in_spool']])
  const file = path.join(spool.folder, 'rejected.jsonl')
  const kept = fs.readFileSync(file, 'utf8').trim().split('\n').map((line) => JSON.parse(line))
  assert.deepEqual(kept.map((one) => [one.event.id, one.reason]), [['1', 'expired_in_spool']])
  await spool.append([old, old])
  await sender._turn()
  assert.equal(counts.rejected, 3)
  assert.ok(fs.statSync(file).size <= 400, 'the file of rejections is bounded')
})
