'use strict'
// What the declarations say is what the code has; how they are used is checked by the compiler (`npm run test:types`).

const assert = require('node:assert/strict')
const { readFileSync } = require('node:fs')
const path = require('node:path')
const { test } = require('node:test')
const { readOptions } = require('../src/options')
const { serve } = require('./world')

const declared = readFileSync(path.join(__dirname, '../src/index.d.ts'), 'utf8')

/** The names in an interface of index.d.ts. */
function namesIn(name) {
  const [, body] = declared.match(new RegExp(`export interface ${name}[^\\n]*\\{\\n([\\s\\S]*?)\\n\\}`))
  return [...body.matchAll(/^ {2}(\w+)\??:/gm)].map(([, found]) => found).sort()
}

test('every option is declared, and no other', () => {
  const derived = ['folder', 'address', 'currentKey']
  const options = readOptions({ url: 'https://usage.example.com', key: 'tps_x', source: '/a', subject: () => null })
  assert.deepEqual(namesIn('Options'), Object.keys(options).filter((name) => !derived.includes(name)).sort())
})

test('every counter is declared, and no other', async (t) => {
  const app = await serve(t, () => {})
  assert.deepEqual(namesIn('Stats'), Object.keys(app.counted.stats()).sort())
})

test('an ES module imports the same by name', async () => {
  const module = await import('turnpike-express')
  assert.equal(module.turnpike, require('../src').turnpike)
  assert.equal(module.ConfigurationError, require('../src').ConfigurationError)
})
