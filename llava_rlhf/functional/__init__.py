"""The maths of reward modelling and PPO: pure functions over tensors, no configuration, no I/O, no device names.

Shape letters: ``B`` batch, ``T`` response tokens, ``N`` any number of tokens, ``V`` vocabulary, ``D`` hidden. Masks are
bool and True means "counts": for responses, a real token including its end-of-answer token. Log-probabilities and KL
are in nats, scores and rewards in reward-model units.

Start with `losses`. Not here: anything that talks to other processes. Losses return sums and counts, statistics return mergeable
moments; whoever owns the processes adds them up and divides once.
"""
