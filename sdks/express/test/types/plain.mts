// Node's own server, without Express; never run.
import { createServer, type IncomingMessage } from 'node:http'
import { turnpike } from 'turnpike-express'

const counted = turnpike<IncomingMessage>({
  url: 'https://usage.example.com',
  key: 'tps_x',
  source: '/gateways/orders',
  subject: (req) => req.headers.host,
})
createServer((req, res) => counted(req, res, () => res.end()))
