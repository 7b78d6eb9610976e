"""What NumPy makes of pydensecrf's matrices; pydensecrf is imported when a case runs."""

import numpy as np

CASES = {}
VALUES = np.random.default_rng(1).random((3, 20)).astype(np.float32)
OTHER = np.random.default_rng(2).random((3, 20)).astype(np.float32)


def matrix():
    import pydensecrf.eigen as eigen

    return eigen.matrixXf(VALUES)


def vector():
    import pydensecrf.eigen as eigen

    return eigen.vectorXf(VALUES[0])


EXPRESSIONS = """
np.array(q)
np.asarray(q)
np.asarray(q, dtype=float)
np.array(q, dtype=np.float32).reshape(3, 4, 5)
np.array(q).dtype.name
np.argmax(q, axis=0)
np.argmax(q, 0).reshape(4, 5)
np.argmax(q, axis=0).reshape((4, 5)).astype(np.uint8)
np.argsort(q, axis=0)
np.reshape(q, (3, 4, 5))
np.transpose(q)
np.moveaxis(q, 0, -1)
np.squeeze(q)
np.shape(q)
np.ndim(q)
np.size(q)
np.sum(q, axis=0)
np.max(q)
np.amax(q, axis=0)
np.mean(q)
np.exp(q)
np.clip(q, 0.2, 0.5)
np.stack([q, q])
np.concatenate([q, a])
np.vstack([q, a])
np.take(q, [0], axis=0)
np.where(a > 0.5, q, 0)
np.einsum("ln->n", q)
np.dot(np.eye(3), q)
np.eye(3) @ q
np.copy(q)
np.ascontiguousarray(q)
np.isnan(q).any().item()
np.allclose(q, q)
np.array_equal(q, a)
np.float32(2) * q
a * q
q * a
a + q
q - a
a == q
q == a
q == q
q != None
q is None
bool(q)
hash(q) == hash(q)
type(q).__name__
type(np.argmax(q, axis=0)).__name__
type(a * q).__name__
np.asarray(q).flags.writeable
np.shares_memory(np.asarray(q), np.asarray(q))
np.shares_memory(np.array(q), np.asarray(q))
np.array(v)
np.argmax(v)
np.array(v) + v
type(v).__name__
np.array(eigen.MatrixXf())
np.array(eigen.VectorXf())
q * 2
2 * q
q + q
-q
len(q)
q[0]
q[0, 0]
list(q)
q.shape
q.T
q.reshape(3, 4, 5)
q.anything
eigen.matrixXf(VALUES.astype(float))
eigen.matrixXf(VALUES[0])
eigen.matrixXf(VALUES.reshape(3, 4, 5))
eigen.matrixXf(None)
eigen.matrixXf(VALUES.tolist())
eigen.matrixXf()
eigen.vectorXf(VALUES)
eigen.vectorXf(VALUES[0].astype(float))
eigen.vectorXf(None)
eigen.vectorXf([1.0, 2.0])
"""


def evaluate(expression):
    import pydensecrf.eigen as eigen

    names = {"np": np, "eigen": eigen, "VALUES": VALUES}
    return eval(expression, names, {"q": matrix(), "v": vector(), "a": OTHER})


for line in EXPRESSIONS.strip().splitlines():
    CASES[line] = lambda line=line: evaluate(line)


def written_through():
    q = matrix()
    np.asarray(q)[0, 0] = 7
    return q


def copied():
    import pydensecrf.eigen as eigen

    values = VALUES.copy()
    q = eigen.matrixXf(values)
    values[:] = 0
    return q


CASES |= {"written through": written_through, "copied": copied}
