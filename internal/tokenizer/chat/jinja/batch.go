package jinja

import "slices"

// batch cuts a list in lists of a length, the last one filled up if there is something to fill it with.
func batch(r *renderer, v Value, a arguments) (Value, error) {
	bound, err := a.bind("batch", "linecount", "fill_with")
	if err != nil {
		return nil, err
	}
	items, err := r.items(v)
	if err != nil {
		return nil, err
	}
	size, err := intArgument("batch", bound[0], 0)
	if err != nil || size < 1 {
		return nil, cmpError(err, "batch needs a length of at least 1")
	}
	out := &List{}
	for part := range slices.Chunk(items, size) {
		out.Items = append(out.Items, NewList(part...))
	}
	if n := len(items) % size; n > 0 && bound[1] != nil {
		last := slices.Clone(items[len(items)-n:])
		fill, err := r.repeatList(NewList(bound[1]), size-n)
		if err != nil {
			return nil, err
		}
		out.Items[len(out.Items)-1] = NewList(append(last, fill.(*List).Items...)...)
	}
	return out, r.make(48 * len(out.Items))
}

// sliceFilter cuts a list in a number of lists of nearly equal lengths.
func sliceFilter(r *renderer, v Value, a arguments) (Value, error) {
	bound, err := a.bind("slice", "slices", "fill_with")
	if err != nil {
		return nil, err
	}
	items, err := r.items(v)
	if err != nil {
		return nil, err
	}
	n, err := intArgument("slice", bound[0], 0)
	if err != nil || n < 1 {
		return nil, cmpError(err, "slice needs a number of at least 1")
	}
	if n > r.limits.Operations {
		return nil, r.work(n)
	}
	out := &List{}
	from := 0
	for i := range n {
		if err := r.make(64); err != nil {
			return nil, err
		}
		size := len(items) / n
		if i < len(items)%n {
			size++
		}
		part := slices.Clone(items[from : from+size])
		from += size
		if bound[1] != nil && i >= len(items)%n && len(items)%n > 0 {
			part = append(part, bound[1])
		}
		out.Items = append(out.Items, NewList(part...))
	}
	return out, nil
}
