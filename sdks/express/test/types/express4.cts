// A CommonJS module with Express 4; never run.
import express = require('express4')
import turnpikeExpress = require('turnpike-express')

const counted = turnpikeExpress.turnpike<express.Request & { subscription?: string }, express.Response>({
  url: 'https://usage.example.com',
  key: 'tps_x',
  source: '/gateways/orders',
  subject: (req) => req.subscription ?? req.get('x-subject'),
})
const app: express.Application = express()
app.use(counted)
app.use('/v1', counted)
