package turnpike

import (
	"context"
	"sync"
)

type noteKey struct{}

// note is what handlers further in say about a call: contexts they make are not seen by the middleware outside.
type note struct {
	mutex             sync.Mutex
	subject, template string
	usage             *Usage
}

// SetSubject says whose call this is, from inside a handler; it goes before Options.Subject.
func SetSubject(ctx context.Context, subscriptionID string) {
	change(ctx, func(n *note) { n.subject = subscriptionID })
}

// SetTemplate says the URL template of a call, for routers other than http.ServeMux.
func SetTemplate(ctx context.Context, template string) {
	change(ctx, func(n *note) { n.template = template })
}

// SetUsage says how a call counts, from inside a handler; it goes before Options.Usage.
func SetUsage(ctx context.Context, usage Usage) {
	change(ctx, func(n *note) { n.usage = &usage })
}

func change(ctx context.Context, how func(*note)) {
	if n, ok := ctx.Value(noteKey{}).(*note); ok {
		n.mutex.Lock()
		defer n.mutex.Unlock()
		how(n)
	}
}
