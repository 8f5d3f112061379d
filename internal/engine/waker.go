package engine

// waker wakes the readers of streams beside the loop: to wake a goroutine is a call into the kernel wherever that wakes a core, and a step
// may have hundreds to wake. The loop gathers a step's streams and hands them over together.
//
// Of three lists the loop fills one, at most one waits, and at most one is being worked through; so that there is a free one whenever a
// list could be handed over.
type waker struct {
	list  []*Stream      // of this step; the loop's
	lists chan []*Stream // one slot
	free  chan []*Stream
	ended chan struct{} // nil: not running, and the loop wakes
}

// wakeAlone is how many the loop wakes itself: handing over costs one wake too.
const wakeAlone = 3

func newWaker(maxStreams int) *waker {
	w := &waker{list: make([]*Stream, 0, maxStreams), lists: make(chan []*Stream, 1), free: make(chan []*Stream, 2)}
	for range cap(w.free) {
		w.free <- make([]*Stream, 0, maxStreams)
	}
	return w
}

// start and stop are called by Run; what was handed over is woken before stop returns.
func (w *waker) start() {
	w.ended = make(chan struct{})
	go func() {
		defer close(w.ended)
		for list := range w.lists {
			wakeAll(list)
			w.free <- list[:0]
		}
	}()
}

func (w *waker) stop() {
	close(w.lists)
	<-w.ended
	w.ended = nil
}

func (w *waker) add(s *Stream) { w.list = append(w.list, s) }

// flush has all that were added woken. It never waits: if the list before is not even begun, the loop wakes.
func (w *waker) flush() {
	if w.ended != nil && len(w.list) > wakeAlone {
		select {
		case w.lists <- w.list:
			w.list = <-w.free
			return
		default:
		}
	}
	wakeAll(w.list)
	w.list = w.list[:0]
}

func wakeAll(list []*Stream) {
	for i, s := range list {
		s.notify()
		list[i] = nil
	}
}
