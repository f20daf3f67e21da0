// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Governed} from "./Governed.sol";

/// @title Proof that a record existed: checkpoints of logs, hashes of envelopes.
/// @notice Only hashes arrive here. No function changes or removes an anchor. Repeating one is harmless and silent, so
/// an anchorer may deliver at least once.
contract SaeAnchor is Governed {
    /// @notice Newest checkpoint of a log.
    struct Head {
        uint64 size;
        uint64 anchoredAt;
        bytes32 root;
    }

    /// @notice One entry written through the DAALog-compatible functions.
    struct LogRecord {
        string agentId;
        bytes32 actionHash;
        uint256 timestamp;
        string metadata;
    }

    /// @notice One envelope or denial, by hash.
    struct Sae {
        /// SHA-256 of the compact form.
        bytes32 hash;
        /// Hash of the envelope that caused it, or 0.
        bytes32 parent;
        bytes32 agent;
    }

    uint256 public constant MAX_BATCH = 256;
    uint256 public constant MAX_AGENT_ID = 256;
    uint256 public constant MAX_METADATA = 1024;

    mapping(address => bool) public isAnchorer;
    /// @notice Root of a log at a size; 0 if that size was not anchored.
    mapping(bytes32 logId => mapping(uint64 size => bytes32)) public rootAt;
    /// @notice Block time at which an envelope's hash was anchored; 0 if it was not.
    mapping(bytes32 hash => uint64) public anchoredAt;
    /// @notice True once two roots of one size were reported for the log.
    mapping(bytes32 logId => bool) public equivocated;
    mapping(bytes32 logId => Head) private _heads;
    LogRecord[] private _records;

    event CheckpointAnchored(bytes32 indexed logId, uint64 indexed size, bytes32 indexed root, bytes32 previousRoot);
    event SaeAnchored(bytes32 indexed hash, bytes32 indexed parent, bytes32 indexed agent);
    event Equivocation(
        bytes32 indexed logId, uint64 indexed size, bytes32 anchoredRoot, bytes32 otherRoot, bytes32 indexed evidence
    );
    event ActionLogged(
        uint256 indexed recordId, string indexed agentId, bytes32 indexed actionHash, uint256 timestamp, string metadata
    );
    event AnchorerAdded(address indexed anchorer);
    event AnchorerRemoved(address indexed anchorer, address indexed by);

    /// @notice A checkpoint must be larger than the newest one.
    error SizeNotGrowing(bytes32 logId, uint64 newest, uint64 size);
    /// @notice A checkpoint must name the root that it continues.
    error PreviousRootMismatch(bytes32 logId, bytes32 expected, bytes32 given);
    /// @notice Another root is anchored for this size: see reportEquivocation.
    error RootConflict(bytes32 logId, uint64 size, bytes32 anchored);
    /// @notice Nothing was anchored at this size, or the root is the same.
    error NoEquivocation(bytes32 logId, uint64 size);
    error BatchTooLarge(uint256 length);
    error TextTooLong(uint256 length);
    error AnchorerUnchanged(address anchorer);

    modifier onlyAnchorer() {
        if (!isAnchorer[msg.sender]) revert Unauthorized(msg.sender);
        _;
    }

    constructor(address timelock_, address multisig_, address guardian_, address anchorer_)
        Governed(timelock_, multisig_, guardian_)
    {
        if (anchorer_ == address(0)) revert ZeroValue();
        isAnchorer[anchorer_] = true;
        emit AnchorerAdded(anchorer_);
    }

    function addAnchorer(address anchorer) external onlyTimelock {
        if (anchorer == address(0)) revert ZeroValue();
        if (isAnchorer[anchorer]) revert AnchorerUnchanged(anchorer);
        isAnchorer[anchorer] = true;
        emit AnchorerAdded(anchorer);
    }

    /// @notice Takes the role from a key, at once.
    function removeAnchorer(address anchorer) external onlyGuardianOrTimelock {
        if (!isAnchorer[anchorer]) revert AnchorerUnchanged(anchorer);
        isAnchorer[anchorer] = false;
        emit AnchorerRemoved(anchorer, msg.sender);
    }

    /// @notice Newest checkpoint of a log; all zero when there is none.
    function headOf(bytes32 logId) external view returns (Head memory) {
        return _heads[logId];
    }

    /// @notice Anchors a checkpoint. The size grows, and `previousRoot` is the newest anchored root (0 for the first).
    function anchorCheckpoint(bytes32 logId, uint64 size, bytes32 root, bytes32 previousRoot) external onlyAnchorer {
        if (logId == 0 || root == 0 || size == 0) revert ZeroValue();
        bytes32 there = rootAt[logId][size];
        if (there == root) return;
        if (there != 0) revert RootConflict(logId, size, there);
        Head storage head = _heads[logId];
        if (size <= head.size) revert SizeNotGrowing(logId, head.size, size);
        if (previousRoot != head.root) revert PreviousRootMismatch(logId, head.root, previousRoot);
        rootAt[logId][size] = root;
        _heads[logId] = Head(size, uint64(block.timestamp), root);
        emit CheckpointAnchored(logId, size, root, previousRoot);
    }

    /// @notice Anchors envelopes one by one, so that each is found by hash, parent and agent.
    function anchorSaes(Sae[] calldata saes) external onlyAnchorer {
        if (saes.length > MAX_BATCH) revert BatchTooLarge(saes.length);
        for (uint256 i = 0; i < saes.length; ++i) {
            Sae calldata s = saes[i];
            if (s.hash == 0 || s.agent == 0) revert ZeroValue();
            if (anchoredAt[s.hash] != 0) continue;
            anchoredAt[s.hash] = uint64(block.timestamp);
            emit SaeAnchored(s.hash, s.parent, s.agent);
        }
    }

    /// @notice Records that a log showed another root than the anchored one for the same size. The anchor stays.
    /// @param evidence SHA-256 of the signed checkpoint with the other root; its signature is checked off chain.
    function reportEquivocation(bytes32 logId, uint64 size, bytes32 otherRoot, bytes32 evidence) external onlyAnchorer {
        bytes32 anchored = rootAt[logId][size];
        if (otherRoot == 0 || evidence == 0) revert ZeroValue();
        if (anchored == 0 || anchored == otherRoot) revert NoEquivocation(logId, size);
        equivocated[logId] = true;
        emit Equivocation(logId, size, anchored, otherRoot, evidence);
    }

    /// @notice DAALog: logs the hash of one action.
    /// @return recordId counts from 0.
    function logAction(string calldata agentId, bytes32 actionHash, string calldata metadata)
        external
        onlyAnchorer
        returns (uint256 recordId)
    {
        return _log(agentId, actionHash, metadata);
    }

    /// @notice DAALog: logs the Merkle root of a batch.
    function logBatch(string calldata agentId, bytes32 merkleRoot, string calldata metadata)
        external
        onlyAnchorer
        returns (uint256 recordId)
    {
        return _log(agentId, merkleRoot, metadata);
    }

    /// @notice DAALog: one record.
    function records(uint256 recordId) external view returns (LogRecord memory) {
        return _records[recordId];
    }

    /// @notice DAALog: number of records.
    function recordCount() external view returns (uint256) {
        return _records.length;
    }

    function _log(string calldata agentId, bytes32 actionHash, string calldata metadata)
        private
        returns (uint256 recordId)
    {
        if (actionHash == 0 || bytes(agentId).length == 0) revert ZeroValue();
        if (bytes(agentId).length > MAX_AGENT_ID) revert TextTooLong(bytes(agentId).length);
        if (bytes(metadata).length > MAX_METADATA) revert TextTooLong(bytes(metadata).length);
        recordId = _records.length;
        _records.push(LogRecord(agentId, actionHash, block.timestamp, metadata));
        emit ActionLogged(recordId, agentId, actionHash, block.timestamp, metadata);
    }
}
