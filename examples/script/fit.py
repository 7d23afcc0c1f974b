"""A classifier of scikit-learn on its handwritten digits. This script knows nothing of qsweep."""

import argparse
import json

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

parser = argparse.ArgumentParser()
parser.add_argument("--kernel", default="rbf")
parser.add_argument("--c", type=float, default=1.0)
parser.add_argument("--seed", type=int, default=0)
given = parser.parse_args()

images, digits = load_digits(return_X_y=True)
train, test, train_digits, test_digits = train_test_split(images, digits, test_size=0.5, random_state=given.seed)
model = SVC(kernel=given.kernel, C=given.c).fit(train, train_digits)
row = {"train_accuracy": model.score(train, train_digits), "test_accuracy": model.score(test, test_digits)}
print(json.dumps(row))  # noqa: T201  # its last line of JSON is the row
